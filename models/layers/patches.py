r"""Examples `(B, C, *size)` as sequences of patches, and the place of each patch, along any number of axes.

A patch has `p` positions along each of `d` axes. Patches are counted row by row, the last axis fastest. Their places
are told by sines and cosines, fixed: the width is divided among the axes, the last axis first, and each has

    [sin(n w_k), cos(n w_k)],     w_k = 10000^(-k / K),   k = 0 … K - 1,   K = width // (2 d),

with `n` the number of the patch along it (Vaswani et al. 2017, arXiv:1706.03762; in two dimensions He et al. 2021,
arXiv:2111.06377, and Peebles & Xie 2022, arXiv:2212.09748). What is left of the width is zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_LONGEST_PERIOD = 10_000.0


def grid_of(size: Sequence[int], patch_size: int) -> tuple[int, ...]:
    """Return the numbers of patches along each axis that cover examples of this size."""
    return tuple(-(-length // patch_size) for length in size)


def to_patches(x: Tensor, patch_size: int) -> Tensor:
    """Return examples `(B, C, *size)` as patches `(B, N, C p^d)`; what is missing at the end of an axis is zero."""
    grid = grid_of(x.shape[2:], patch_size)
    missing = [number * patch_size - length for number, length in zip(grid, x.shape[2:], strict=True)]
    if any(missing):
        x = F.pad(x, [end for count in reversed(missing) for end in (0, count)])
    split = x.reshape(*x.shape[:2], *(length for number in grid for length in (number, patch_size)))
    numbers, within = range(2, split.ndim, 2), range(3, split.ndim, 2)
    return split.permute(0, *numbers, 1, *within).reshape(len(x), math.prod(grid), -1)


def from_patches(patches: Tensor, size: Sequence[int], patch_size: int) -> Tensor:
    """Return examples `(B, C, *size)` of patches `(B, N, p^d C)`, whose channels come last; the end is cropped."""
    grid, dims = grid_of(size, patch_size), len(size)
    split = patches.reshape(len(patches), *grid, *(patch_size,) * dims, -1)
    pairs = [axis for first in range(1, 1 + dims) for axis in (first, first + dims)]
    whole = split.permute(0, split.ndim - 1, *pairs)
    x = whole.reshape(len(patches), split.shape[-1], *(number * patch_size for number in grid))
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length) if x.shape[axis] != length else x
    return x


def places(grid: Sequence[int], width: int) -> Tensor:
    """Return what tells the places of patches, `(N, width)`, computed in float64."""
    half = width // (2 * len(grid))
    frequencies = _LONGEST_PERIOD ** (-torch.arange(half, dtype=torch.float64) / max(half, 1))
    numbers = torch.meshgrid(*(torch.arange(count, dtype=torch.float64) for count in grid), indexing="ij")
    parts = []
    for number in reversed(numbers):
        angles = number.reshape(-1, 1) * frequencies
        parts += [angles.sin(), angles.cos()]
    told = torch.cat(parts, dim=1)
    return F.pad(told, (0, width - told.shape[1]))
