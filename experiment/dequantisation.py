"""Variational dequantisation for an experiment's model: learned once, and kept beside the checkpoint."""

from __future__ import annotations

import torch

from score_sde.common import distributed
from score_sde.common.distributed import say
from score_sde.common.errors import UserError
from score_sde.common.interruption import keeping
from score_sde.common.progress import Progress
from score_sde.common.weight_files import load_weights
from score_sde.evaluation.likelihood.dequantisation import VariationalDequantiser
from score_sde.experiment.checkpoints import companions
from score_sde.experiment.experiment import Experiment
from score_sde.models.dequantisation_flow import DequantisationFlow
from score_sde.training import checkpoint
from score_sde.training.dequantisation import fit_dequantisation


def learned_dequantiser(experiment: Experiment) -> VariationalDequantiser:
    """Load the variational dequantiser of a model from beside its checkpoint; learn it first, if it is missing.

    Raises:
        UserError: the data are no pictures, or the file is damaged.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    if not dataset.is_image:
        raise UserError(f"variational dequantisation is for images, not {dataset.name}")
    path = companions(experiment.folder, experiment.found) / "dequantisation.pt"
    torch.manual_seed(config.seed)
    flow = DequantisationFlow(dataset.shape[0], dataset.quantised.bins)
    flow = flow.to(distributed.device())
    if distributed.rank() == 0 and not path.exists():
        num_steps, t_min = config.likelihood.flow_steps, config.likelihood.t_min or model.sde.t_min

        def kept() -> str:
            return (
                f"stopped after {bar.done} of {num_steps} steps of learning dequantisation, which are not kept; repeat "
                "the command to begin again"
            )

        with keeping(kept), Progress("learning dequantisation", num_steps, "step") as bar:

            def report(step: int, gain: float) -> None:
                bar.update(step - bar.done, f"gain {gain:.4f} bits/dim")

            best, gain = fit_dequantisation(flow, model, dataset.train, num_steps, t_min, config.seed, report)
        checkpoint.save({"flow": best.state_dict()}, path)
        say(f"{path}: {gain:.4f} bits/dim less than with uniform noise, by the variational bound")
    distributed.barrier()
    load_weights(flow, checkpoint.load(path)["flow"], str(path))
    return VariationalDequantiser(flow.cpu())
