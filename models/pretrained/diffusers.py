r"""Pipelines of the library diffusers: a `UNet2DModel` or a DiT with its scheduler, read as a score model.

What the scheduler says of the process, the label and the output is in `models.pretrained.diffusers_schedulers`, where
the weights lie in `models.pretrained.diffusers_files`. DDPM's pipelines have images in [-1, 1], those for VE in [0, 1].
Between rungs labels are fractions. See `models.pretrained.diffusers_export` for the way back. A `DiTPipeline` is read
as a model of its latents, given their class; its autoencoder is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.models.networks.dit import DiT
from score_sde.models.pretrained.diffusers_dit import CLASSES, read_transformer
from score_sde.models.pretrained.diffusers_files import local_folder, read_json
from score_sde.models.pretrained.diffusers_library import library, quiet
from score_sde.models.pretrained.diffusers_parts import (
    UNET,
    VE_PIPELINE,
    differentiable_attention,
    read_network,
    read_scheduler,
)
from score_sde.models.pretrained.diffusers_schedulers import VE, meaning
from score_sde.models.pretrained.dit import Means
from score_sde.models.score_model import ScoreModel
from score_sde.sde import VESDE, DDPMLadder

# Other pipelines with the same parts may do things to images, before and after, that are not known here.
_DIT_PIPELINE = "DiTPipeline"
_PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline", "RePaintPipeline", VE_PIPELINE)


class UNet(nn.Module):
    """A `UNet2DModel` is called as networks are here: `network(x, noise_label)`.

    Args:
        unet: the library's model.
        low: what its pipeline takes for black; white is 1.

    Attributes:
        image_shape: shape of an example, `(channels, height, width)`.
        low: what its pipeline takes for black; white is 1.

    Raises:
        UserError: the model needs more than an image and a time.
    """

    def __init__(self, unet: Any, low: float) -> None:
        super().__init__()
        config = unet.config
        if getattr(unet, "class_embedding", None) is not None:
            raise UserError("this UNet2DModel is told classes, which is not supported: take an unconditional one")
        if config.time_embedding_type == "learned":
            raise UserError("this UNet2DModel has a learned vector for each rung, so it knows no times between them")
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            raise UserError(f"this UNet2DModel makes {config.out_channels} channels of {config.in_channels}")
        if config.sample_size is None:
            raise UserError("this UNet2DModel does not say how large its images are: give its config a sample_size")
        self.unet = unet
        self.low = low
        size = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else tuple(config.sample_size)
        self.image_shape = (config.in_channels, *size)
        differentiable_attention(unet)

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        """Return the output, shape of `x` `(B, C, H, W)`; of a model that predicts variances too, its first half."""
        return self.unet(x, noise_label).sample[:, : x.shape[1]]


def load_pipeline(source: str | Path) -> ScoreModel:
    """Read the score model of a pipeline, in evaluation mode and float32; its `network` is a `UNet`.

    That of a `DiTPipeline` is of latents, as its autoencoder scales them, and its condition is `class`.

    Args:
        source: a folder with `model_index.json`, or a name on the hub such as `google/ddpm-cifar10-32`.

    Raises:
        UserError: it cannot be read, is no pipeline of a `UNet2DModel` and a scheduler alone, nor a `DiTPipeline`, or
            has a scheduler or settings whose meaning is not known.
    """
    diffusers = library()
    with quiet():
        folder = local_folder(source)
        try:
            parts = read_json(folder / "model_index.json")
            of_dit = parts.get("_class_name") == _DIT_PIPELINE
            _check_dit_parts(source, parts) if of_dit else _check_parts(source, parts)
            scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
            network = (
                read_transformer(folder / "transformer") if of_dit else read_network(source, folder / "unet", diffusers)
            )
        except UserError as error:
            if str(error).startswith((str(source), "cannot read")):
                raise
            raise UserError(f"cannot read the pipeline {source}: {error}") from error
    try:
        if isinstance(network, DiT):
            sde, prediction, noise_label, _ = meaning(scheduler)
            return ScoreModel(Means(network), sde, prediction, noise_label, scale_input=False).eval()
        return score_model(network, scheduler)
    except UserError as error:
        raise UserError(f"cannot use the pipeline {source}: {error}") from error


def _check_parts(source: str | Path, parts: dict[str, Any]) -> None:
    """Check that `model_index.json` describes a pipeline of images, made of a `UNet2DModel` and a scheduler alone."""
    kind = parts.get("_class_name", "something else")
    if parts.get("unet") != ["diffusers", UNET]:
        raise UserError(f"{source} is not a pipeline of a {UNET}, but {kind}")
    others = [name for name, value in parts.items() if name not in ("unet", "scheduler") and _is_part(name, value)]
    if others:
        raise UserError(f"{source} is not a pipeline of a {UNET} alone: {kind} has {', '.join(others)}, too")
    if kind not in _PIPELINES:
        raise UserError(
            f"{source} is a {kind}, of which it is not known what it does to images; known are {', '.join(_PIPELINES)}"
        )


def _check_dit_parts(source: str | Path, parts: dict[str, Any]) -> None:
    """Check that `model_index.json` describes a pipeline of a DiT, an autoencoder and a scheduler alone."""
    if parts.get("transformer") not in [["diffusers", name] for name in CLASSES]:
        raise UserError(f"{source} is a {_DIT_PIPELINE}, but its transformer is {parts.get('transformer')!r}")
    known = ("transformer", "vae", "scheduler")
    others = [name for name, value in parts.items() if name not in known and _is_part(name, value)]
    if others:
        raise UserError(f"{source} is a {_DIT_PIPELINE} with {', '.join(others)}, too, which is not known here")


def _is_part(name: str, value: object) -> bool:
    return not name.startswith("_") and isinstance(value, list) and any(item is not None for item in value)


def score_model(unet: Any, scheduler: Any) -> ScoreModel:
    """Make a score model, in evaluation mode, of a `UNet2DModel` and its scheduler.

    Raises:
        UserError: the model needs more than an image and a time, or the scheduler's class or settings mean
            something that is not in the table of `models.pretrained.diffusers_schedulers`.
    """
    sde, prediction, noise_label, low = meaning(scheduler)
    if not isinstance(sde, VESDE) and unet.config.time_embedding_type == "fourier":
        raise UserError(
            f"this {UNET} has a Fourier embedding, so it divides by its label, which is sigma with a {VE}, and not "
            f"with a {type(scheduler).__name__}"
        )
    variance = scheduler.config.get("variance_type")
    if unet.config.out_channels == 2 * unet.config.in_channels and str(variance).startswith("fixed"):
        raise UserError(
            f"this {UNET} makes {unet.config.out_channels} channels of {unet.config.in_channels}, but its "
            f"{type(scheduler).__name__} has variance_type={variance!r}, so it does not say what the second half is: "
            "set that to 'learned_range' if they are variances"
        )
    with quiet():
        network = UNet(unet, low)
    return ScoreModel(network, sde, prediction, noise_label, scale_input=False).eval()


def image_units(model: ScoreModel) -> tuple[tuple[int, ...], float, float]:
    """Return the shape of an example `(channels, height, width)`, black and white, of a model read from a pipeline.

    Raises:
        UserError: it is a model of latents.
    """
    network = model.network
    if isinstance(network, Means):
        raise UserError(
            f"a {_DIT_PIPELINE} makes latents, and its autoencoder, which makes images of them, is not read"
        )
    assert isinstance(network, UNet)
    return network.image_shape, network.low, 1.0


def rungs(model: ScoreModel, timesteps: Tensor) -> Tensor:
    """Return the times of a pipeline's `timesteps`, as grids of solvers take them; float64, shape of `timesteps`.

    Raises:
        UserError: the process is no ladder, or the network is not told its rungs.
    """
    if model.noise_label != "rung" or not isinstance(model.sde, DDPMLadder):
        raise UserError("only a network that is told the rungs of a ladder has timesteps")
    return model.sde.time(torch.as_tensor(timesteps))
