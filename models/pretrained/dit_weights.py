"""Weights of the published code for DiT and SiT: their names, what they tell of a network, and giving them to one.

A state dict tells all of a network's sizes but the number of heads, which follows from the published widths, and
whether classes may be hidden, as those of all published ones may.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.weight_files import load_weights, read_safetensors, read_torch, unwrapped
from score_sde.models.networks.dit import DiT

# float32's rounding of numbers up to 1.
_ROUNDING = 1e-6
# Weights of these names are in every published network, and in no other that is read here.
MARKS = ("y_embedder.embedding_table.weight", "final_layer.adaLN_modulation.1.weight")


class Sizes(NamedTuple):
    """A state dict tells these sizes of its network.

    Attributes:
        size: height and width of latents.
        channels: channels of latents.
        out_channels: channels of what the network makes.
        width: number of features of a patch.
        num_blocks: number of blocks.
        patch_size: positions of a patch along each axis.
        num_vectors: rows of the table of classes, of which the last means that the class is hidden, if it may be.
    """

    size: int
    channels: int
    out_channels: int
    width: int
    num_blocks: int
    patch_size: int
    num_vectors: int


def is_reference(weights: object) -> bool:
    """Return whether what was read of a file has the names of the published code, wrapped or not."""
    names = [name for name in weights if isinstance(name, str)] if isinstance(weights, Mapping) else []
    return all(any(name.endswith(mark) for name in names) for mark in MARKS)


def sizes_of(weights: Mapping[str, Tensor], where: str) -> Sizes:
    """Return what a published state dict tells of its network, after a look at the shapes that tell it.

    Args:
        weights: tensors under the published names.
        where: the origin of the weights, for the error.

    Raises:
        UserError: a tensor that tells a size is not there, or has another number of axes.
    """
    axes = {
        "x_embedder.proj.weight": 4,
        "pos_embed": 3,
        "y_embedder.embedding_table.weight": 2,
        "final_layer.linear.weight": 2,
    }
    for name, count in axes.items():
        if name not in weights:
            raise UserError(f"{where} is not of the published DiT or SiT: it has no {name}")
        if weights[name].ndim != count or not weights[name].numel():
            raise UserError(f"{where} is not of the published DiT or SiT: {name} is {tuple(weights[name].shape)}")
    width, channels, patch_size, _ = weights["x_embedder.proj.weight"].shape
    blocks = {int(match[1]) for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))}
    return Sizes(
        math.isqrt(weights["pos_embed"].shape[1]) * patch_size,
        channels,
        len(weights["final_layer.linear.weight"]) // patch_size**2,
        width,
        len(blocks),
        patch_size,
        len(weights["y_embedder.embedding_table.weight"]),
    )


def read_reference_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a file of the published code, under their names there, or their average if it has one.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    found = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch(path)
    if isinstance(found, Mapping) and isinstance(found.get("ema"), Mapping):
        found = found["ema"]
    return unwrapped(found, str(path))


def load_reference(network: DiT, weights: Mapping[str, Tensor], where: str, sign: int = 1) -> None:
    """Give a network, in place, the weights of a published one, or of its first channels alone.

    Args:
        network: of as many channels as the published one makes, or of fewer, as of the means without what follows.
        weights: tensors under the published names.
        where: the origin of the weights, for errors.
        sign: what the output is multiplied by.

    Raises:
        UserError: the two do not fit together; the first mismatch is named.
    """
    given = {name: tensor for name, tensor in weights.items() if name != "pos_embed"}
    given["x_embedder.proj.weight"] = given["x_embedder.proj.weight"].flatten(1)
    numbers = network.patch_size ** len(network.size)
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        if name in given and given[name].ndim and len(given[name]) % numbers == 0:
            # Of each number of a patch the channels are beside each other.
            of_channels = given[name].unflatten(0, (numbers, -1))[:, : len(network.output.weight) // numbers]
            given[name] = sign * of_channels.flatten(0, 1)
    load_weights(network, renamed(given, reference_names(network), where), where)
    set_places(network, weights["pos_embed"], where)


def reference_names(network: DiT) -> dict[str, str]:
    """Return the name here of each weight, by its published name."""
    of_all = {
        "x_embedder.proj": "input",
        "t_embedder.mlp.0": "embeddings.0.hidden",
        "t_embedder.mlp.2": "embeddings.0.output",
        "final_layer.linear": "output",
        "final_layer.adaLN_modulation.1": "modulation",
    }
    of_block = {
        "attn.qkv": "query_key_value",
        "attn.proj": "output",
        "mlp.fc1": "expand",
        "mlp.fc2": "contract",
        "adaLN_modulation.1": "modulation",
    }
    for index in range(len(network.blocks)):
        of_all |= {f"blocks.{index}.{theirs}": f"blocks.{index}.{ours}" for theirs, ours in of_block.items()}
    names = {f"{theirs}.{k}": f"{ours}.{k}" for theirs, ours in of_all.items() for k in ("weight", "bias")}
    return names | {"y_embedder.embedding_table.weight": "embeddings.0.condition.vectors.class.weight"}


def renamed(weights: Mapping[str, Tensor], names: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """Return weights under other names; those that have none keep theirs.

    Args:
        weights: a state dict.
        names: the name here, by the published name; all must be there.
        where: the origin of the weights, for the error.

    Raises:
        UserError: a weight is missing.
    """
    for name in names:
        if name not in weights:
            raise UserError(f"{where} does not fit this network: it has no {name}")
    return {names.get(name, name): tensor for name, tensor in weights.items()}


def set_places(network: DiT, table: Tensor, where: str) -> None:
    """Give a network the table of places that was saved with it, which must be the published one.

    Args:
        network: the network, of square examples, which is changed in place.
        table: what was saved, `(1, N, width)`.
        where: the origin of the table, for the error.

    Raises:
        UserError: it is another table.
    """
    here = network.places[None]
    if table.shape != here.shape or not bool(((table - here).abs() <= _ROUNDING).all()):
        raise UserError(f"{where} has other places of patches than the published sines and cosines of a square")
    network.places.copy_(table[0])
