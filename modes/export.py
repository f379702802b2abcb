"""Mode `export`: write a trained model as a pipeline of diffusers, into the folder of the flag `--folder`.

The checkpoint is one of ours, or a published one with its configuration. What can be written is listed in
`models/pretrained/diffusers_export.py`.
"""

from __future__ import annotations

from pathlib import Path

from score_sde.common.distributed import rank, say
from score_sde.common.errors import UserError
from score_sde.experiment.experiment import Experiment
from score_sde.models import ScoreModel


def run(experiment: Experiment, folder: Path) -> None:
    """Write the pipeline, and say how to use it.

    Raises:
        UserError: the model cannot be a pipeline, or a file cannot be written.
    """
    from score_sde.models.pretrained.diffusers_export import save_pipeline

    model, dataset = experiment.model, experiment.dataset
    if not isinstance(model, ScoreModel) or not dataset.is_image:
        raise UserError("only score models of images can be pipelines")
    if rank() == 0:
        save_pipeline(model, folder, dataset.shape[-1])
    say(f"written to {folder}: python main.py --mode sample --checkpoint {folder}")
