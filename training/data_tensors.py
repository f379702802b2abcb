"""Tensors in the description of data, such as the weights of the autoencoder whose latents are modelled.

In a `.safetensors` file plain values are text, and tensors lie beside the model's under the path to them in the
description: `data/units/autoencoder/encoder.conv_in.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

ROOT = "data/"


def apart(description: Mapping[str, Any], root: str = ROOT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the plain values of a description, and its tensors by their paths."""
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in description.items():
        if isinstance(value, Tensor):
            tensors[root + name] = value
        elif isinstance(value, Mapping):
            plain[name], below = apart(value, f"{root}{name}/")
            tensors |= below
        else:
            plain[name] = value
    return plain, tensors


def taken_out(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the tensors of a description out of the tensors of a file, in place, and return them by their paths."""
    return {name: weights.pop(name) for name in sorted(weights) if name.startswith(ROOT)}


def put_back(plain: dict[str, Any] | None, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Put tensors back to where they were in a description, in place, and return it."""
    for path, tensor in tensors.items():
        here: Any = plain
        *above, name = path.removeprefix(ROOT).split("/")
        for part in above:
            here = here[part]
        here[name] = tensor
    return plain
