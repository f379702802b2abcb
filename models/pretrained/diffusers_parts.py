"""The parts of a pipeline's folder that the library diffusers has classes for: networks and schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common import distributed
from score_sde.common.errors import UserError, first_line
from score_sde.common.weight_files import load_weights
from score_sde.models.layers.basic import transforms_active
from score_sde.models.pretrained.diffusers_files import choose_weights, read_json, read_weights
from score_sde.models.pretrained.diffusers_library import public
from score_sde.models.pretrained.diffusers_schedulers import VE, check_class

VE_PIPELINE = "ScoreSdeVePipeline"
UNET = "UNet2DModel"
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
# Of a folder's parts, these do nothing to latents.
_NOT_READ = ("safety_checker", "feature_extractor", "image_encoder")
# What a part is of: the library, and the classes of it that are known.
Known = Mapping[str, tuple[str, tuple[str, ...]]]


def check_parts(folder: Path, parts: Mapping[str, Any], known: Known, passed_over: Sequence[str] = ()) -> None:
    """See that `model_index.json` names parts of the classes that are known, and no others.

    Args:
        folder: that of the pipeline.
        parts: what it names.
        known: the parts that are read.
        passed_over: parts that are not, whatever they are.

    Raises:
        UserError: a part is missing, or is of another class, or is not known.
    """
    kind = parts["_class_name"]
    for name, (origin, classes) in known.items():
        entry = parts.get(name)
        if not isinstance(entry, list) or entry not in [[origin, each] for each in classes]:
            of = ".".join(map(str, entry)) if isinstance(entry, list) else "not there"
            raise UserError(f"{folder} is a {kind} whose {name} is {of}, and known is {' or '.join(classes)}")
    for name, entry in parts.items():
        is_part = not name.startswith("_") and isinstance(entry, list) and any(item is not None for item in entry)
        if is_part and name not in (*known, *_NOT_READ, *passed_over, "scheduler"):
            raise UserError(f"{folder} is a {kind} with a part {name}, which is not known here")


def read_scheduler(path: Path, parts: dict[str, Any], diffusers: ModuleType) -> Any:
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
    if (parts["_class_name"] == VE_PIPELINE) != (name == VE):
        raise UserError(f"model_index.json has a {parts['_class_name']} with {name}, which do not go together")
    try:
        return getattr(diffusers, name).from_config(public(settings))
    except Exception as error:  # the class has many checks, and each raises its own
        raise UserError(f"{path} is not for a {name}: {first_line(error)}") from error


def read_network(
    source: str | Path, folder: Path, diffusers: ModuleType, kind: str = UNET, safetensors_only: bool = False
) -> Any:
    """Read a network of a pipeline, with its weights, in float32.

    Args:
        source: the pipeline, for what is noted.
        folder: where the network lies.
        diffusers: the library.
        kind: its class.
        safetensors_only: whether to refuse weights in other files.

    Raises:
        UserError: a file is missing or damaged, or is of another class, or of another version of it.
    """
    settings = read_json(folder / "config.json")
    named = settings.get("_class_name", kind)
    if named != kind:
        raise UserError(f"{folder / 'config.json'} is not of a {kind}, but {named}")
    network = network_of_settings(settings, kind, diffusers, str(folder / "config.json"))
    names = [path.name for path in folder.iterdir() if path.name != "config.json"]
    if safetensors_only:
        names = safe_names(names, folder)
    weights = choose_weights(names, str(folder))
    if weights.variant is not None:
        distributed.note(
            f"{source} has only the variant {weights.variant!r} of its weights: they are used (in float32)"
        )
    load_weights(network, read_weights(folder, weights), str(folder / weights.name))
    return network


def network_of_settings(settings: dict[str, Any], kind: str, diffusers: ModuleType, where: str) -> Any:
    """Make a network of the library by its settings, with initial weights.

    Args:
        settings: what its `config.json` has.
        kind: its class.
        diffusers: the library.
        where: the origin of the settings, for complaints.

    Raises:
        UserError: they are of another class, or of another version of it.
    """
    known = inspect.signature(getattr(diffusers, kind).__init__).parameters
    settings = public(settings)
    for key in settings.keys() - known.keys():
        if key not in _OF_THE_AVERAGE and settings[key] is not None and settings[key] is not False:
            raise UserError(
                f"{where} has {key}={settings[key]!r}, which the {kind} of the installed diffusers "
                f"{diffusers.__version__} does not know: update it"
            )
        del settings[key]
    try:
        return getattr(diffusers, kind)(**settings)
    except Exception as error:  # each layer raises its own
        raise UserError(f"{where} does not make a {kind}: {first_line(error)}") from error


def safe_names(names: list[str], folder: Path) -> list[str]:
    """Return the names of files that are not pickled.

    Raises:
        UserError: weights are there, and pickled only.
    """
    safe = [name for name in names if ".bin" not in name]
    if len(safe) < len(names) and not any(".safetensors" in name for name in safe):
        pickled = next(name for name in sorted(names) if ".bin" in name)
        raise UserError(
            f"{folder} has its weights in {pickled}, a pickle, and only .safetensors are read of such a pipeline: load "
            "it with diffusers where you trust it, and save_pretrained it again"
        )
    return safe


def differentiable_attention(unet: nn.Module, fused: bool = False) -> None:
    """Write attention out, since PyTorch's fused kernel has a first derivative in reverse mode only, and order its
    results in memory as the norms after it need for many derivatives at once.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor

    processor: Any = FusedOrWrittenOut() if fused else AttnProcessor()

    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(processor)
            module.upcast_softmax = module.upcast_attention = False  # "up" is to float32, from float64 too
            module.register_forward_hook(lambda module, inputs, output: output.contiguous())


class FusedOrWrittenOut:
    """Attention is PyTorch's fused kernel, and written out where a derivative is to be taken, as that has few of them.

    It does what the library's own processors do.
    """

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self._fused, self._written_out = AttnProcessor2_0(), AttnProcessor()

    def __call__(self, attention: Any, hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
        """Return what positions attend to, of the shape of `hidden_states`."""
        derived = transforms_active() or (torch.is_grad_enabled() and hidden_states.requires_grad)
        chosen = self._written_out if derived else self._fused
        return chosen(attention, hidden_states, *args, **options)
