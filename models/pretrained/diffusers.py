r"""Pipelines of the library diffusers: a `UNet2DModel` with its scheduler, read as a score model.

| scheduler                | process                          | label        | the network returns             |
|--------------------------|----------------------------------|--------------|---------------------------------|
| any with `betas` (DDPM,  | DDPM's ladder of these betas     | the rung,    | by its `prediction_type`:       |
| DDIM, PNDM, …)           |                                  | from 0       | noise, velocity, denoised image |
| `ScoreSdeVeScheduler`    | VE, its sigma_min and sigma_max  | sigma        | the score                       |

DDPM's pipelines have images in [-1, 1], those for VE in [0, 1]. Between rungs labels are fractions. See
`models.pretrained.diffusers_export` for the way back.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError
from models.score_model import ScoreModel
from sde import VESDE, DDPMLadder

_PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "denoised"}
_VE_SCHEDULER = "ScoreSdeVeScheduler"
_NEEDED = "UNet2DModel"


def library() -> ModuleType:
    """The library, without its progress bars and its notices of retried downloads.

    Raises:
        UserError: it is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise UserError(
            f"reading and writing pipelines needs the package diffusers ({error}): pip install 'diffusers>=0.30'"
        ) from error
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return diffusers


class UNet(nn.Module):
    """A `UNet2DModel` called as networks are here: `network(x, labels)`.

    Args:
        unet: the model.
        low: what its pipeline takes for black; white is 1.

    Attributes:
        image_shape: of an example, `(channels, height, width)`.
        low: what its pipeline takes for black; white is 1.

    Raises:
        UserError: the model needs more than an image and a noise level.
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
        _differentiable_attention(unet)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The model's output, shape of `x` `(B, C, H, W)`; of a model that predicts variances too, the first half."""
        return self.unet(x, labels).sample[:, : x.shape[1]]


def load_pipeline(source: str | Path) -> ScoreModel:
    """The score model of a pipeline, in evaluation mode; its `network` is a `UNet`.

    Args:
        source: a folder with `model_index.json`, or a name on the hub such as `google/ddpm-cifar10-32`.

    Raises:
        UserError: it cannot be read, is no pipeline of a `UNet2DModel`, or has a scheduler that is not in the table.
    """
    pipelines = library().DiffusionPipeline
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = pipelines.load_config(str(source))
            if list(parts.get("unet", ())) != ["diffusers", _NEEDED]:
                kind = parts.get("_class_name", "something else")
                raise UserError(f"{source} is not a pipeline of a {_NEEDED}, but {kind}")
            pipeline = pipelines.from_pretrained(str(source), low_cpu_mem_usage=False)
    except UserError:
        raise
    except Exception as error:  # files and servers fail in many ways
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        where = "" if Path(source).is_dir() else "; there is no such folder, and perhaps no way to the hub"
        raise UserError(f"cannot read the pipeline {source}: {reason.rstrip('.')}{where}") from error
    try:
        return score_model(pipeline.unet, pipeline.scheduler)
    except UserError as error:
        raise UserError(f"cannot use the pipeline {source}: {error}") from error


def score_model(unet: Any, scheduler: Any) -> ScoreModel:
    """A `UNet2DModel` with its scheduler as a score model, by the table above, in evaluation mode.

    Raises:
        UserError: the model needs more than an image and a noise level, or the scheduler is not in the table.
    """
    name, settings = type(scheduler).__name__, scheduler.config
    if name == _VE_SCHEDULER:
        ve = VESDE(settings.sigma_min, settings.sigma_max, settings.sampling_eps)
        return ScoreModel(UNet(unet, low=0.0), ve, "score", "sigma", scale_input=False).eval()
    betas = getattr(scheduler, "betas", None)
    if betas is None:
        raise UserError(f"{name} has no betas, so its process is not known: take a DDPM-like one or {_VE_SCHEDULER}")
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise UserError(f"prediction_type {prediction!r} is not one of {', '.join(_PREDICTIONS)}")
    ladder = DDPMLadder(betas.double())
    return ScoreModel(UNet(unet, low=-1.0), ladder, _PREDICTIONS[prediction], "rung", scale_input=False).eval()


def _differentiable_attention(unet: nn.Module) -> None:
    """Write attention out, since PyTorch's fused kernel has a first derivative in reverse mode only, and order its
    results in memory as the norms after it need for many derivatives at once.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor

    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
            module.upcast_softmax = False  # "up" is to float32, from float64 too
            module.register_forward_hook(lambda module, inputs, output: output.contiguous())


def image_units(model: ScoreModel) -> tuple[tuple[int, ...], float, float]:
    """Shape of an example `(channels, height, width)`, black and white, of a model read from a pipeline."""
    network = model.network
    assert isinstance(network, UNet)
    return network.image_shape, network.low, 1.0


def rungs(model: ScoreModel, timesteps: Tensor) -> Tensor:
    """Times of a pipeline's `timesteps`, as grids of solvers take them; float64, their shape.

    Raises:
        UserError: the process is no ladder.
    """
    if not isinstance(model.sde, DDPMLadder):
        raise UserError("only a ladder has timesteps")
    return model.sde.time(torch.as_tensor(timesteps))
