"""The table of a tuned likelihood: made when it is first asked for, and kept beside the checkpoint.

tuned_likelihood_20.json    by 20 calls
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.interruption import keeping
from score_sde.common.noise import SampleNoise
from score_sde.common.progress import Progress
from score_sde.evaluation.likelihood.dequantisation import Dequantiser
from score_sde.evaluation.watched import Watched
from score_sde.experiment.checkpoints import companions
from score_sde.experiment.experiment import Experiment
from score_sde.solvers.density.tuned import (
    TunedLikelihood,
    load_likelihood_table,
    model_digest,
    save_likelihood_table,
)
from score_sde.solvers.density.tuning import FINE_STEPS, MOST_STEPS, fewest_examples, tune_likelihood
from score_sde.solvers.options import check_between
from score_sde.solvers.process import last_time

# The number of calls, if it is left out.
NUM_STEPS = 20
# The most training examples, and the most numbers that are kept of them.
_MOST_EXAMPLES, _MOST_NUMBERS = 2048, 2**28
# Seeds of their noise and probes, far from those of examples that are measured.
_FIRST_SEED = 2**41
# The settings that a table depends on.
_DECISIVE = ("divergence", "num_probes", "probe")


def likelihood_table(experiment: Experiment, dequantiser: Dequantiser, options: Mapping[str, Any]) -> TunedLikelihood:
    """Return the table for the section `likelihood`; one that is missing, or was made for other settings, is made.

    Args:
        experiment: the model and its training data.
        dequantiser: what makes examples into what the model sees.
        options: of `log_likelihood`.

    Raises:
        UserError: there are too few training examples, or the table cannot be written.
    """
    settings, model = experiment.config.likelihood, experiment.model
    num_steps = settings.num_steps or NUM_STEPS
    path = companions(experiment.folder, experiment.found) / f"tuned_likelihood_{num_steps}.json"
    t_min = last_time(model.sde, options["t_min"])
    told = {name: settings[name] for name in (*_DECISIVE, "dequantisation", "prior")} | {"t_min": t_min}
    about = ", ".join(f"{name}={value}" for name, value in told.items())
    if distributed.rank() == 0 and not _is_kept(path, about, model):
        given = {name: options[name] for name in (*_DECISIVE, "t_min", "prior")}
        table = _tune(experiment, dequantiser, num_steps, given)
        save_likelihood_table(path, table._replace(about=about))
        distributed.say(f"{path}: {num_steps} calls, {in_words(table)}")
    distributed.barrier()
    return load_likelihood_table(path)


def check_tuned_likelihood(config: ConfigDict) -> None:
    """Check that the section `likelihood` asks for no more than a table leaves open.

    Raises:
        UserError: it does; the line names the key.
    """
    settings = config.likelihood
    if settings.given != "none":
        raise UserError("likelihood.method=tuned is learned for p(x): take adaptive_adams for others")
    for name in ("options", "grid", "rtol", "atol"):
        if settings[name] is not None:
            raise UserError(f"likelihood.method=tuned has times and steps of its own: leave out likelihood.{name}")
    with naming("likelihood.num_steps"):
        check_between("num_steps", settings.num_steps or NUM_STEPS, 2, MOST_STEPS)


def in_words(table: TunedLikelihood) -> str:
    """Say by how much a table is off."""
    error = table.held_out
    return (
        f"off by {error.mean_absolute:.4f} ± {error.mean_absolute_error:.4f} nats/dim of an example, "
        f"{error.bias:+.4f} ± {error.bias_error:.4f} of their mean ({error.num_examples} training examples held out)"
    )


def _is_kept(path: Any, about: str, model: Any) -> bool:
    if not path.exists():
        return False
    table = load_likelihood_table(path)
    return table.about == about and table.model == model_digest(model)


def _tune(
    experiment: Experiment, dequantiser: Dequantiser, num_steps: int, options: Mapping[str, Any]
) -> TunedLikelihood:
    dataset, settings = experiment.dataset, experiment.config.likelihood
    count = max(fewest_examples(num_steps), _MOST_NUMBERS // (FINE_STEPS * torch.Size(dataset.model_shape).numel()))
    examples = dataset.train[:: max(1, -(-len(dataset.train) // min(count, _MOST_EXAMPLES)))]
    if len(examples) < fewest_examples(num_steps):
        raise UserError(
            f"likelihood.method=tuned learns from training examples, of which {fewest_examples(num_steps)} are needed "
            f"for {num_steps} calls and {len(examples)} are here: take adaptive_adams"
        )
    seeds = [_FIRST_SEED + number for number in range(len(examples))]
    x = dequantiser.sample(examples, SampleNoise(seeds, stream="dequantisation")).x.to(distributed.device())
    distributed.say(f"tuning a likelihood of {num_steps} calls")
    with keeping(lambda: "stopped while tuning a likelihood, which is not kept"), Progress("tuning") as bar:
        model = Watched(experiment.model, bar.call)
        return tune_likelihood(model, num_steps, x, seeds=seeds, batch_size=settings.batch_size, **options)
