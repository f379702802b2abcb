r"""Pipelines of the library diffusers: a `UNet2DModel` or a DiT with its scheduler, read as a score model.

What the scheduler says of the process, the label and the output is in `models.pretrained.diffusers_schedulers`, where
the weights lie in `models.pretrained.diffusers_files`. DDPM's pipelines have images in [-1, 1], those for VE in [0, 1].
Between rungs labels are fractions. See `models.pretrained.diffusers_export` for the way back. A `DiTPipeline` is read
as a model of its latents, given their class; its autoencoder is left out.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.weight_files import load_weights
from score_sde.models.networks.dit import DiT
from score_sde.models.pretrained.diffusers_dit import CLASSES, read_transformer
from score_sde.models.pretrained.diffusers_files import choose_weights, local_folder, read_json, read_weights
from score_sde.models.pretrained.diffusers_schedulers import VE, check_class, meaning
from score_sde.models.pretrained.dit import Means
from score_sde.models.score_model import ScoreModel
from score_sde.sde import VESDE, DDPMLadder

_NEEDED = "UNet2DModel"
# The library's own moving average of the weights writes these into the network's settings.
_OF_THE_AVERAGE = {
    "decay",
    "min_decay",
    "optimization_step",
    "update_after_step",
    "use_ema_warmup",
    "inv_gamma",
    "power",
}
# Other pipelines with the same parts may do things to images, before and after, that are not known here.
_VE_PIPELINE = "ScoreSdeVePipeline"
_DIT_PIPELINE = "DiTPipeline"
_PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline", "RePaintPipeline", _VE_PIPELINE)


def library() -> ModuleType:
    """Import the library, without its progress bars and its notices of retried downloads, and return it.

    Raises:
        UserError: the library is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import diffusers
    except ImportError as error:
        raise UserError(
            f"reading and writing pipelines needs the package diffusers ({error}): pip install 'diffusers>=0.30'"
        ) from error
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return diffusers


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the libraries print about themselves off stderr."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = [logging.getLogger(name) for name in ("diffusers", "huggingface_hub", "transformers")]
    levels, bars = [logger.level for logger in loggers], not are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        disable_progress_bars()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                enable_progress_bars()


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
        _differentiable_attention(unet)

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
    with _quiet():
        folder = local_folder(source)
        try:
            parts = read_json(folder / "model_index.json")
            of_dit = parts.get("_class_name") == _DIT_PIPELINE
            _check_dit_parts(source, parts) if of_dit else _check_parts(source, parts)
            scheduler = _read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
            network = (
                read_transformer(folder / "transformer") if of_dit else _read_unet(source, folder / "unet", diffusers)
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
    if parts.get("unet") != ["diffusers", _NEEDED]:
        raise UserError(f"{source} is not a pipeline of a {_NEEDED}, but {kind}")
    others = [name for name, value in parts.items() if name not in ("unet", "scheduler") and _is_part(name, value)]
    if others:
        raise UserError(f"{source} is not a pipeline of a {_NEEDED} alone: {kind} has {', '.join(others)}, too")
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


def _read_scheduler(path: Path, parts: dict[str, Any], diffusers: ModuleType) -> Any:
    """Read the scheduler of a pipeline, with every setting of its file in its `config`."""
    entry = parts.get("scheduler")
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(item, str) for item in entry):
        raise UserError(f"model_index.json does not say of which class its scheduler is, but {entry!r}")
    origin, name = entry
    settings = read_json(path)
    for one in (name, settings.get("_class_name", name)):
        check_class(str(one))
    if origin != "diffusers" or not hasattr(diffusers, name):
        raise UserError(f"{name} of {origin} is not in the installed diffusers {diffusers.__version__}: update it")
    if (settings.get("_class_name", name) == VE) != (name == VE):
        raise UserError(f"model_index.json has {name}, but scheduler_config.json {settings['_class_name']}")
    if (parts["_class_name"] == _VE_PIPELINE) != (name == VE):
        raise UserError(f"model_index.json has a {parts['_class_name']} with {name}, which do not go together")
    try:
        return getattr(diffusers, name).from_config(_public(settings))
    except Exception as error:  # the class has many checks, and each raises its own
        raise UserError(f"{path} is not for a {name}: {_first_line(error)}") from error


def _read_unet(source: str | Path, folder: Path, diffusers: ModuleType) -> Any:
    """Read the network of a pipeline, with its weights, in float32."""
    settings = read_json(folder / "config.json")
    kind = settings.get("_class_name", _NEEDED)
    if kind != _NEEDED:
        raise UserError(f"{folder / 'config.json'} is not of a {_NEEDED}, but {kind}")
    known = inspect.signature(diffusers.UNet2DModel.__init__).parameters
    settings = _public(settings)
    for key in settings.keys() - known.keys():
        if key not in _OF_THE_AVERAGE and settings[key] is not None and settings[key] is not False:
            raise UserError(
                f"{folder / 'config.json'} has {key}={settings[key]!r}, which the {_NEEDED} of the installed "
                f"diffusers {diffusers.__version__} does not know: update it"
            )
        del settings[key]
    try:
        unet = diffusers.UNet2DModel(**settings)
    except Exception as error:  # each layer raises its own
        raise UserError(f"{folder / 'config.json'} does not make a {_NEEDED}: {_first_line(error)}") from error
    weights = choose_weights((path.name for path in folder.iterdir() if path.name != "config.json"), str(folder))
    if weights.variant is not None:
        distributed.note(
            f"{source} has only the variant {weights.variant!r} of its weights: they are used (in float32)"
        )
    load_weights(unet, read_weights(folder, weights), str(folder / weights.name))
    return unet


def _public(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those that the library keeps for itself, by which it may leave others out."""
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].rstrip(".:")


def score_model(unet: Any, scheduler: Any) -> ScoreModel:
    """Make a score model, in evaluation mode, of a `UNet2DModel` and its scheduler.

    Raises:
        UserError: the model needs more than an image and a time, or the scheduler's class or settings mean
            something that is not in the table of `models.pretrained.diffusers_schedulers`.
    """
    sde, prediction, noise_label, low = meaning(scheduler)
    if not isinstance(sde, VESDE) and unet.config.time_embedding_type == "fourier":
        raise UserError(
            f"this {_NEEDED} has a Fourier embedding, so it divides by its label, which is sigma with a {VE}, and not "
            f"with a {type(scheduler).__name__}"
        )
    variance = scheduler.config.get("variance_type")
    if unet.config.out_channels == 2 * unet.config.in_channels and str(variance).startswith("fixed"):
        raise UserError(
            f"this {_NEEDED} makes {unet.config.out_channels} channels of {unet.config.in_channels}, but its "
            f"{type(scheduler).__name__} has variance_type={variance!r}, so it does not say what the second half is: "
            "set that to 'learned_range' if they are variances"
        )
    with _quiet():
        network = UNet(unet, low)
    return ScoreModel(network, sde, prediction, noise_label, scale_input=False).eval()


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
