r"""Networks of the published code of ADM, read from their state dicts into `ADM` and `ADMClassifier`.

    openai/guided-diffusion      Dhariwal & Nichol 2021, arXiv:2105.05233
    openai/improved-diffusion    Nichol & Dhariwal 2021, arXiv:2102.09672

All work on images in [-1, 1], on DDPM's ladder with linear or cosine betas, and return the noise, and beside it, with
`learn_sigma`, as many channels that interpolate variances. The label at rung i of N, from 0, is

    i               guided-diffusion, and what has rescale_timesteps=False
    1000 i / N      improved-diffusion (its N is 4000)

An upsampler sees a small picture beside the image, brought to its size by linear interpolation.

Classes, where a network is told them, are never hidden in its training: it knows no `p(x)`. A state dict tells neither
the size of the images nor the heads of attention, so that a network is made by its published flags first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.weight_files import load_weights, read_safetensors, read_torch, unwrapped
from score_sde.models.layers.condition import Always
from score_sde.models.networks.adm import ADM
from score_sde.models.networks.adm_classifier import ADMClassifier, Pool
from score_sde.models.pretrained.adm_names import adm_names, classifier_names
from score_sde.models.pretrained.dit_weights import renamed

# How much of a file is looked at to know what it is, in bytes; and what is looked for, and must not be there.
_BEGINNING, _NAME, _OURS = 2**22, b"middle_block.0.in_layers.0.weight", b"ema_decay"
_AFFINE = re.compile(r"(?:\.(?:qkv|proj_out|qkv_proj|c_proj)|^out\.3)\.weight$")


def read_adm_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of the published code, or one of its weights as `.safetensors`.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    found = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch(path)
    return unwrapped(found, str(path))


def load_adm(network: ADM, weights: Mapping[str, Tensor], where: str = "the state dict") -> None:
    """Copy published weights into a network that was made with the same flags, which is changed in place.

    Args:
        network: the network.
        weights: tensors under the published names, with or without the prefixes of wrappers, also of half precision.
        where: the origin of the weights, for errors.

    Raises:
        UserError: the weights are of a network with other flags, or not finite; the first difference is named.
    """
    weights = unwrapped(weights, where)
    _check_flags(network, weights, where)
    names = adm_names(network)
    load_weights(network, renamed(_flat(weights), names, where), where)
    network.eval()


def adm_classifier(
    weights: Mapping[str, Tensor], image_size: int, where: str = "the state dict", head_width: int = 64
) -> ADMClassifier:
    """Build the classifier that a published state dict is of, in evaluation mode.

    Args:
        weights: tensors under the published names, with or without the prefixes of wrappers, also of half precision.
        image_size: height and width of its images.
        where: the origin of the weights, for errors.
        head_width: width of a head of attention, which no weights show.

    Raises:
        UserError: the weights are of something else, or not finite.
    """
    weights = unwrapped(weights, where)
    arguments = _classifier_arguments(weights, image_size, where)
    network = ADMClassifier(image_size, **arguments, head_width=head_width, heads_first=True)
    names = classifier_names(network)
    load_weights(network, renamed(_flat(weights), names, where), where)
    return network.eval()


def holds_adm(path: Path) -> bool:
    """Return whether a file has the names of weights of the published code at its beginning, and is none of ours.

    Whatever wrote it, names come before numbers; ours have their configuration beside them.
    """
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        beginning = file.read(_BEGINNING)
    return _NAME in beginning and _OURS not in beginning


def is_adm(names: Any) -> bool:
    """Return whether names of weights are those of the published code, of a U-Net or a classifier."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight"} <= set(names)


def is_adm_classifier(names: Any) -> bool:
    """Return whether names of weights, which are those of the published code, are those of a classifier."""
    return not any(name.startswith("output_blocks.") for name in names)


def _check_flags(network: ADM, weights: Mapping[str, Tensor], where: str) -> None:
    """See that a network has the flags that weights show: they are named rather than the first tensor that differs.

    Raises:
        UserError: a flag is another one, or the weights are of something else.
    """
    if not is_adm(weights) or is_adm_classifier(weights):
        raise UserError(f"{where} is not of a published U-Net: it has no input_blocks and output_blocks")
    first = network.encoder.bottleneck[0]
    kind = network.conditions.get("class", 0)
    classes = kind.count if isinstance(kind, Always) else kind
    there = {
        "channels": _shape(weights, "time_embed.0.weight", 2, where)[1],
        "input channels": _shape(weights, "input_blocks.0.0.weight", 4, where)[1],
        "output channels": _shape(weights, "out.2.weight", 4, where)[0],
        "classes": _shape(weights, "label_emb.weight", 2, where)[0] if "label_emb.weight" in weights else 0,
        "scale_shift": _scales(weights, where),
        "resample_in_blocks": not any(re.search(r"\.op\.weight$", name) for name in weights),
    }
    here = {
        "channels": network.embedding.hidden.in_features,
        "input channels": network.encoder.conv_in.in_channels,
        "output channels": network.output.out_channels,
        "classes": classes,
        "scale_shift": first.residual.scale_shift,  # type: ignore[union-attr]
        "resample_in_blocks": network.resample_in_blocks or len(network.decoder) == 1,
    }
    for flag, value in there.items():
        if here[flag] != value:
            raise UserError(f"{where} is of a network with {flag}={value}, and this one has {flag}={here[flag]}")


def _classifier_arguments(weights: Mapping[str, Tensor], image_size: int, where: str) -> dict[str, Any]:
    """Return the arguments of `ADMClassifier` that weights are of, as far as they show them.

    Raises:
        UserError: the weights are of something else.
    """
    if not is_adm(weights) or not is_adm_classifier(weights):
        raise UserError(f"{where} is not of a published classifier")
    pool, last = _pool(weights)
    rows = 0
    while any(f"input_blocks.{rows}.0.{layer}" in weights for layer in ("weight", "in_layers.0.weight", "op.weight")):
        rows += 1
    attends = [f"input_blocks.{row}.1.qkv.weight" in weights for row in range(rows)]
    # Blocks of the smallest resolution are the last rows, and all have attention.
    num_blocks = next((count for count, attend in enumerate(reversed(attends)) if not attend), 0)
    if not num_blocks or rows % (num_blocks + 1):
        raise UserError(f"{where} has no attention at its smallest resolution, as published classifiers have")
    ends = range(num_blocks, rows, num_blocks + 1)
    channels = _shape(weights, "time_embed.0.weight", 2, where)[1]
    widths = [_shape(weights, f"input_blocks.{end}.0.out_layers.0.weight", 1, where)[0] for end in ends]
    return {
        "in_channels": _shape(weights, "input_blocks.0.0.weight", 4, where)[1],
        "num_outputs": _shape(weights, last, None, where)[0],
        "pool": pool,
        "channels": channels,
        "channel_multipliers": [width / channels for width in widths],
        "num_blocks": num_blocks,
        "attention_resolutions": [image_size // 2**depth for depth, end in enumerate(ends) if attends[end]],
        "scale_shift": _scales(weights, where),
        "resample_in_blocks": f"input_blocks.{num_blocks + 1}.0.op.weight" not in weights,
    }


def _pool(weights: Mapping[str, Tensor]) -> tuple[Pool, str]:
    """Return the pool that weights are of, and the name of the weights that make its outputs."""
    if "out.2.positional_embedding" in weights:
        return "attention", "out.2.c_proj.weight"
    if "out.1.weight" in weights:
        return "spatial_v2", "out.3.weight"
    return ("spatial", "out.2.weight") if "out.2.weight" in weights else ("adaptive", "out.3.weight")


def _scales(weights: Mapping[str, Tensor], where: str) -> bool:
    """Return whether blocks are told the time by scale and shift."""
    made = _shape(weights, "middle_block.0.emb_layers.1.weight", 2, where)[0]
    return made == 2 * _shape(weights, "middle_block.0.out_layers.0.weight", 1, where)[0]


def _shape(weights: Mapping[str, Tensor], name: str, axes: int | None, where: str) -> tuple[int, ...]:
    """Return the shape of a tensor that must be there, of so many axes, or any number of them, none of length 0.

    Raises:
        UserError: it is not.
    """
    if name not in weights:
        raise UserError(f"{where} is not of the published code of ADM: it has no {name}")
    shape = tuple(weights[name].shape)
    if not shape or 0 in shape or axes not in (None, len(shape)):
        raise UserError(f"{where} is not of the published code of ADM: {name} is {shape}")
    return shape


def _flat(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with those of affine maps as matrices: convolutions of one position there, (C, C', 1) or so."""
    return {
        name: tensor.flatten(1) if tensor.ndim > 2 and _AFFINE.search(name) and set(tensor.shape[2:]) == {1} else tensor
        for name, tensor in weights.items()
    }
