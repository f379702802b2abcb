r"""Which part of each training example is modelled, given which other (`common.part`), drawn at random.

One network learns every question that is asked of it by being asked at random, of what is observed:

    joint       one example in five     all of it is modelled
    fill        two in five             a random share of it is given, the rest is modelled
    marginal    two in five             a random share of it is absent, the rest is modelled

with a share that is uniform in [0, 1]. What was not observed is absent, always, and never in the loss. Which numbers
the share consists of is drawn number by number; where examples extend over axes, also, in half of them, as one box that
closes on itself, or all but one (as gaps of series are, and what is forecast). One number is always modelled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.noise import BatchNoise
from score_sde.common.part import Part

_JOINT, _FILL = 0.2, 0.4


def random_part(x_0: Tensor, noise: BatchNoise) -> Part:
    """Return a part of each example `x_0` `(B, *dims)`, in model units, NaN where it was not observed."""
    known = ~x_0.isnan()
    rows = x_0.new_empty(len(x_0))
    question, share = noise.uniform(rows), noise.uniform(rows)
    place = noise.uniform(x_0)
    if x_0.ndim > 2:
        place = torch.where(_rows(noise.uniform(rows) < 0.5, x_0), place, _boxes(x_0, noise))
    # The last place that is known stays.
    last = torch.where(known, place, -1.0).flatten(1).argmax(1)
    stays = torch.zeros_like(known).flatten(1).scatter_(1, last[:, None], True).reshape(known.shape)
    chosen = known & ~stays & (place < _rows(share, x_0)) & _rows(question >= _JOINT, x_0)
    given = chosen & _rows(question < _JOINT + _FILL, x_0)
    return Part(torch.where(given, x_0, 0), given, known & ~chosen)


def _boxes(x_0: Tensor, noise: BatchNoise) -> Tensor:
    """Return for each number the share of all places that a growing box has, or has left out, when it comes there."""
    corner = noise.uniform(x_0.new_empty(len(x_0), x_0.ndim - 1))
    size = torch.zeros_like(x_0[:, :1])
    for axis in range(2, x_0.ndim):
        shape = [-1 if other == axis else 1 for other in range(x_0.ndim)]
        along = torch.arange(x_0.shape[axis], device=x_0.device).reshape(shape) / x_0.shape[axis]
        away = (along - _rows(corner[:, axis - 2], x_0)).abs()
        size = torch.maximum(size, 2 * torch.minimum(away, 1 - away))
    grown = size ** (x_0.ndim - 2)
    return torch.where(_rows(corner[:, -1] < 0.5, x_0), grown, 1 - grown).expand_as(x_0)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values[(..., *(None,) * (like.ndim - 1))]
