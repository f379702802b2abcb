r"""Low-rank changes of a pipeline's weights, LoRA (Hu et al. 2021, arXiv:2106.09685), added once and for all.

    W <- W + s (a / r) B A,        A (r, in), B (out, r); of a convolution A has its kernel, and B is one of 1 x 1

with `s` a scale of one's own, and `a` that of the file, r if it names none. Files are `.safetensors` of the libraries
diffusers and peft, or kohya's, of the denoiser (`unet.`) and of the encoder of texts (`text_encoder.`).
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError, first_line
from score_sde.common.weight_files import check_finite, read_safetensors
from score_sde.models.pretrained.diffusers_library import library, quiet

UNET, TEXT = "unet", "text_encoder"
_DOWN = r"\.(?:lora_A(?:\.default)?|lora\.down|lora_linear_layer\.down)\.weight$"
_PAIR = re.compile(rf"^({UNET}|{TEXT})\.(.+?){_DOWN}")
_UP = {"lora_A": "lora_B", "lora.down": "lora.up", "lora_linear_layer.down": "lora_linear_layer.up"}
_METADATA = "lora_adapter_metadata"


def add_low_rank_changes(networks: dict[str, nn.Module], path: Path, scale: float = 1.0) -> None:
    """Add the changes of a file to the weights of networks, in place, all of them or none.

    Args:
        networks: the denoiser under `unet` and the encoder of texts under `text_encoder`; the latter may be left out.
        path: the file.
        scale: the factor of all changes.

    Raises:
        UserError: the file is missing or damaged, or holds something else, or changes of other networks.
    """
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{path} is no .safetensors, which low-rank changes are read from")
    weights, about = read_safetensors(path)
    check_finite(weights, str(path))
    changes = _changes(weights, about, str(path))
    for (name, place), change in changes.items():
        weight = _weight(networks, name, place, str(path))
        if weight.shape != change.shape:
            raise UserError(
                f"{path} changes {name}.{place} of shape {tuple(change.shape)}, and here it has {tuple(weight.shape)}"
            )
    with torch.no_grad():
        for (name, place), change in changes.items():
            weight = _weight(networks, name, place, str(path))
            weight.add_((scale * change).to(weight))


def _changes(weights: dict[str, Tensor], about: dict[str, str], where: str) -> dict[tuple[str, str], Tensor]:
    """Return the change of each weight, by network and place; float64."""
    try:
        with quiet():
            mixin: Any = library().loaders.StableDiffusionLoraLoaderMixin
            converted, alphas = mixin.lora_state_dict(dict(weights))
    except Exception as error:  # names of other programs are converted by many rules
        raise UserError(f"{where} holds no low-rank changes that are known here: {first_line(error)}") from error
    alphas = alphas or {}
    try:
        settings = json.loads(about.get(_METADATA, "{}"))
    except ValueError as error:
        raise UserError(f"{where} has {_METADATA} that is no JSON") from error
    changes, used = {}, set()
    for name, down in converted.items():
        match = _PAIR.match(name)
        if match is None:
            continue
        part = next(part for part in _UP if part in name)
        up_name = name.replace(part, _UP[part])
        if up_name not in converted:
            raise UserError(f"{where} has {name}, and no {up_name}")
        up, network, place = converted[up_name], match[1], match[2]
        if settings.get(f"{network}.alpha_pattern") or settings.get(f"{network}.use_dora"):
            raise UserError(f"{where} has changes of a kind that is not known here: alpha_pattern or use_dora")
        rank = len(down)
        if up.ndim < 2 or up.shape[1] != rank:
            raise UserError(f"{where}: {name} is of rank {rank}, and {up_name} of shape {tuple(up.shape)}")
        alpha = alphas.get(f"{network}.{place}.alpha", settings.get(f"{network}.lora_alpha", rank))
        product = up.double().flatten(1) @ down.double().flatten(1)
        if down.ndim > 2:
            product = product.unflatten(1, tuple(down.shape[1:]))
        divisor = math.sqrt(rank) if settings.get(f"{network}.use_rslora") else rank
        changes[network, place] = float(alpha) / divisor * product
        used |= {name, up_name}
    rest = [name for name in converted if name not in used]
    if rest or not changes:
        raise UserError(f"{where} holds {rest[0] if rest else 'nothing'}, which is no low-rank change known here")
    return changes


def _weight(networks: dict[str, nn.Module], name: str, place: str, where: str) -> Tensor:
    """Return the weight of a place of a network."""
    network, weight = networks.get(name), None
    # Newer versions of the library transformers leave out the outermost part.
    for each in (place, place.removeprefix("text_model.")):
        try:
            weight = weight if network is None else getattr(network.get_submodule(each), "weight", weight)
        except AttributeError:
            continue
    if not isinstance(weight, Tensor):
        raise UserError(f"{where} changes {name}.{place}, which this pipeline does not have")
    return weight
