r"""Volumes to try things on: an ellipsoid with a soft edge in a cube, drawn by seed, with noise.

At the points `r` of a grid on `[-1, 1]^3`,

    v(r) = 1 / (1 + exp(-(1 - |(r - c) / a|) / w)) + s z,     z ~ N(0, 1),

with a centre `c` uniform in `[-0.3, 0.3]^3` and half axes `a` uniform in `[0.3, 0.7]^3`: 1 inside, 0 outside, and 1/2
on the ellipsoid. Without noise the volumes would have six dimensions, and no density.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.data.split import Parts

NUM_TRAIN, NUM_TEST = 2000, 200
SIDE = 16
NOISE, EDGE = 0.05, 0.1
_FARTHEST, _SHORTEST, _LONGEST = 0.3, 0.3, 0.7


def load_toy_volumes(seed: int = 0) -> Parts:
    """Draw volumes `(N, 1, 16, 16, 16)`, float32; the training and test parts come from generators of their own."""
    train, test = (torch.Generator().manual_seed(2 * seed + part) for part in range(2))
    return Parts(_draw(NUM_TRAIN, train), _draw(NUM_TEST, test))


def ellipsoids(centres: Tensor, half_axes: Tensor, side: int = SIDE) -> Tensor:
    """Return the volumes `(N, 1, side, side, side)`, without noise, of centres and half axes `(N, 3)`."""
    line = (2 * torch.arange(side, dtype=centres.dtype) + 1) / side - 1
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)
    place = (..., None, None, None, slice(None))
    distances = ((points - centres[place]) / half_axes[place]).norm(dim=-1)
    return ((1 - distances) / EDGE).sigmoid().unsqueeze(1)


def _draw(count: int, generator: torch.Generator) -> Tensor:
    centres, half_axes = torch.rand(2, count, 3, generator=generator)
    volumes = ellipsoids(_FARTHEST * (2 * centres - 1), _SHORTEST + (_LONGEST - _SHORTEST) * half_axes)
    return volumes + NOISE * torch.randn(volumes.shape, generator=generator)
