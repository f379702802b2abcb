"""Mode `export`: write a trained model as a pipeline of diffusers, into the folder of the flag `--folder`.

The checkpoint is one of ours, or a published one with its configuration. What can be written is listed in
`models/pretrained/diffusers_export.py`.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from score_sde.common.distributed import rank, say
from score_sde.common.errors import UserError
from score_sde.common.score import check_score
from score_sde.data.latent_units import Latents
from score_sde.experiment import configuration
from score_sde.experiment.experiment import Experiment
from score_sde.models import ScoreModel

# What makes a model that can be a pipeline, with any configuration that is for images.
_GROUPS = 32  # of every GroupNorm
_CHANGES = {
    "sde.name": "ddpm",
    "model.network": "ddpm",
    "model.prediction": "velocity",
    "model.noise_label": "rung",
    "model.data_std": "1.0",
    "model.variance": "fixed",
    "training.objective": "discrete",
    "data.distortion": "0.0",
    "model.class_conditional": "False",
}


def run(experiment: Experiment, folder: Path) -> None:
    """Write the pipeline, and say how to use it.

    Raises:
        UserError: the model cannot be a pipeline, or a file cannot be written.
    """
    from score_sde.models.pretrained.diffusers_export import save_pipeline

    model, dataset = experiment.model, experiment.dataset
    if not dataset.is_image or dataset.shape[-2] != dataset.shape[-1]:
        raise UserError(f"pipelines are for square images, and {dataset.name} has {dataset.kind} of {dataset.shape}")
    if isinstance(dataset.units, Latents):
        raise UserError("a pipeline that is written here has no autoencoder, of whose latents this model is")
    if not isinstance(model, ScoreModel):
        raise UserError(f"a pipeline has no {type(model).__name__}; {_what_can(experiment.config)}")
    check_score(model, "a pipeline's sampler")
    if rank() == 0:
        try:
            save_pipeline(model, folder, dataset.shape[-1])
        except UserError as error:
            raise UserError(f"{error}; {_what_can(experiment.config)}") from error
    say(f"written to {folder}: python main.py --mode sample --checkpoint {folder}")


def _what_can(config: ConfigDict) -> str:
    """Say with which changes of this configuration a model is trained that can be a pipeline."""
    values = dict(configuration.flatten(config))
    wanted = _CHANGES | ({"model.channels": str(_GROUPS)} if values["model.channels"] % _GROUPS else {})
    changes = [f"--config.{key}={value}" for key, value in wanted.items() if str(values[key]) != value]
    return f"one that can be exported is trained with {' '.join(changes)}" if changes else "see docs/pretrained.md"
