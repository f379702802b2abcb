r"""Low-rank changes of a pipeline's weights, LoRA (Hu et al. 2021, arXiv:2106.09685), added once and for all.

    W <- W + s (a / r) B A,        A (r, in), B (out, r); of a convolution A has its kernel, and B is one of 1 x 1

with `s` a scale of one's own, and `a` that of the file, r if it names none; changes that are rank-stabilised
(Kalajdzievski 2023, arXiv:2312.03732) have the root of r below. Files are `.safetensors` of the libraries diffusers and
peft, or kohya's, of the denoiser (`unet.`, `transformer.`) and of encoders of texts (`text_encoder.`,
`text_encoder_2.`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError, first_line
from score_sde.common.weight_files import check_finite, read_safetensors
from score_sde.models.networks.mmdit import MMDiT
from score_sde.models.pretrained.diffusers_library import library, quiet
from score_sde.models.pretrained.diffusers_mmdit import converted_changes
from score_sde.models.pretrained.diffusers_text import SECOND

UNET, TRANSFORMER = "unet", "transformer"
_DOWN = r"\.(?:lora_A(?:\.default)?|lora\.down|lora_linear_layer\.down)\.weight$"
_PAIR = re.compile(rf"^({UNET}|{TRANSFORMER}|text_encoder(?:_2)?)\.(.+?){_DOWN}")
# Projections of attention had other names, in files of older versions and in those that are converted from kohya's.
_OLD_NAMES = (
    (r"\.processor(?=\.to_)", ""),
    (r"\.self_attn\.to_(q|k|v|out)_lora\.", r".self_attn.\1_proj.lora."),
    (r"\.to_(q|k|v)_lora\.", r".to_\1.lora."),
    (r"\.to_out_lora\.", r".to_out.0.lora."),
)
_UP = {"lora_A": "lora_B", "lora.down": "lora.up", "lora_linear_layer.down": "lora_linear_layer.up"}
_METADATA = "lora_adapter_metadata"


class Change(NamedTuple):
    """A weight's change is a product of two small ones, formed when it is added, since all are many gigabytes.

    Attributes:
        up: `B` `(out, r)`, or with kernels of 1 x 1.
        down: `A` `(r, in)`, or with a kernel.
        factor: what their product is multiplied by.
    """

    up: Tensor
    down: Tensor
    factor: float

    @property
    def shape(self) -> torch.Size:
        """The shape is that of the weight."""
        return torch.Size([len(self.up), *self.down.shape[1:]])

    def product(self) -> Tensor:
        """Return the change itself, float64."""
        return (self.factor * self.up.double().flatten(1) @ self.down.double().flatten(1)).reshape(self.shape)


def add_low_rank_changes(networks: Mapping[str, nn.Module], path: Path, scale: float = 1.0) -> None:
    """Add the changes of a file to the weights of networks, in place, all of them or none.

    Args:
        networks: the denoiser under `unet` or, of Stable Diffusion 3, `transformer`, and encoders of texts under the
            names of parts.
        path: the file.
        scale: the factor of all changes.

    Raises:
        UserError: the file is missing or damaged, or holds something else, or changes of other networks.
    """
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{path} is no .safetensors, which low-rank changes are read from")
    weights, about = read_safetensors(path)
    check_finite(weights, str(path))
    changed: list[tuple[Tensor, Change | Tensor]] = []
    for name, changes in _changes(_by_present_names(weights, networks, str(path)), about, str(path)).items():
        network = networks.get(name)
        of_weights: Mapping[str, Change | Tensor] = changes
        if isinstance(network, MMDiT):
            products = {place: change.product() for place, change in changes.items()}
            of_weights = converted_changes(network, products, str(path))
        for place, change in of_weights.items():
            weight = _weight(network, place)
            if weight is None:
                raise UserError(f"{path} changes {name}.{place}, which this pipeline does not have")
            if weight.shape != change.shape:
                here = tuple(weight.shape)
                raise UserError(f"{path} changes {name}.{place} of shape {tuple(change.shape)}, and here it has {here}")
            changed.append((weight, change))
    with torch.no_grad():
        for weight, change in changed:
            product = change if isinstance(change, Tensor) else change.product()
            weight.add_((scale * product).to(weight))


def _by_present_names(
    weights: dict[str, Tensor], networks: Mapping[str, Any], where: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file by the library's names, and `a` of each place that has one of its own."""
    strange = next((name for name in weights if "dora_scale" in name), None)
    if strange is not None:
        raise UserError(f"{where} has {strange}, of weights by size and direction (DoRA), which is not known here")
    loaders: Any = library().loaders
    try:
        with quiet():
            if TRANSFORMER in networks:
                return _renamed(loaders.SD3LoraLoaderMixin.lora_state_dict(dict(weights))), {}
            loader, more = loaders.StableDiffusionLoraLoaderMixin, {}
            if SECOND in networks:
                loader, more = loaders.StableDiffusionXLLoraLoaderMixin, {"unet_config": networks[UNET].config}
            converted, alphas = loader.lora_state_dict(dict(weights), **more)
    except Exception as error:  # names of other programs are converted by many rules
        raise UserError(f"{where} holds no low-rank changes that are known here: {first_line(error)}") from error
    places = _renamed({name.removesuffix(".alpha"): value for name, value in (alphas or {}).items()})
    return _renamed(converted), {re.sub(_DOWN, "", name): value for name, value in places.items()}


def _renamed(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has names by those that are written at present."""
    found = {}
    for name, value in named.items():
        for old, new in _OLD_NAMES:
            name = re.sub(old, new, name)
        found[name] = value
    return found


def _changes(
    named: tuple[dict[str, Tensor], dict[str, Any]], about: dict[str, str], where: str
) -> dict[str, dict[str, Change]]:
    """Return the change of each weight, by network and place."""
    converted, alphas = named
    try:
        settings = json.loads(about.get(_METADATA, "{}"))
    except ValueError as error:
        raise UserError(f"{where} has {_METADATA} that is no JSON") from error
    changes: dict[str, dict[str, Change]] = {}
    used = set()
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
        alpha = alphas.get(f"{network}.{place}", settings.get(f"{network}.lora_alpha", rank))
        divisor = math.sqrt(rank) if settings.get(f"{network}.use_rslora") else rank
        changes.setdefault(network, {})[place] = Change(up, down, float(alpha) / divisor)
        used |= {name, up_name, f"{network}.{place}"}
    rest = [name for name in (*converted, *alphas) if name not in used]
    if rest or not changes:
        raise UserError(f"{where} holds {rest[0] if rest else 'nothing'}, which is no low-rank change known here")
    return changes


def _weight(network: nn.Module | None, place: str) -> Tensor | None:
    """Return the weight of a place of a network; None if it has none."""
    weight = None
    # Newer versions of the library transformers leave out the outermost part.
    for each in (place, place.removeprefix("text_model.")):
        try:
            weight = weight if network is None else getattr(network.get_submodule(each), "weight", weight)
        except AttributeError:
            continue
    return weight if isinstance(weight, Tensor) else None
