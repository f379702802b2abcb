r"""A condition made of the pictures themselves: where their edges are, as of a control network (`models`).

With `b` the brightness from 0 to 1, the mean of the channels, edges are where it changes by more than a threshold from
one pixel to the next, by Sobel's estimate of its gradient:

    e = 1 where |∇b| > threshold, 0 elsewhere;        db/dx = (K * b) / 8,   K = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]].

Beyond its border a picture goes on as it is there. A sharp edge from black to white has gradients of 1/2 on both sides.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data.conditions import ConditionUnits
from score_sde.data.dataset import Dataset
from score_sde.data.units import Standardised
from score_sde.data.words import PARTS

EDGES = "edges"
# Pictures whose edges are found together.
_AT_ONCE = 1024
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def with_edges(dataset: Dataset, threshold: float) -> Dataset:
    """Return data whose condition `edges` is where the edges of each picture are.

    Args:
        dataset: pictures `(N, C, H, W)` of levels, or none, of which the shape is known.
        threshold: the least change of the brightness, in parts of all of it a pixel, that is an edge.

    Raises:
        UserError: the data are no pictures.
    """
    if not dataset.is_image or dataset.levels is None:
        raise UserError(f"edges are of pictures, and {dataset.name} has {dataset.kind}")
    levels, shape = dataset.levels, (1, *dataset.shape[1:])
    units = ConditionUnits(shape, Standardised(*torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)))
    conditions = {
        part: {**dataset.conditions.get(part, {}), EDGES: edges_of(getattr(dataset, part), levels, threshold, shape)}
        for part in PARTS
    }
    return replace(dataset, conditions=conditions, condition_units={**dataset.condition_units, EDGES: units})


def edges_of(pictures: Tensor, levels: int, threshold: float, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return the edges of pictures `(N, C, H, W)` of levels, uint8 `(N, 1, H, W)`, 1 and 0.

    Args:
        pictures: the pictures.
        levels: the number of levels.
        threshold: the least change that is an edge.
        shape: the shape of one picture's edges, where there are no pictures to see it from.
    """
    if not len(pictures):
        return torch.empty(0, *(shape or (1, *pictures.shape[2:])), dtype=torch.uint8)
    return torch.cat([_edges(part, levels, threshold) for part in pictures.split(_AT_ONCE)])


def _edges(pictures: Tensor, levels: int, threshold: float) -> Tensor:
    brightness = pictures.double().mean(1, keepdim=True) / (levels - 1)
    across = torch.tensor(_SOBEL, dtype=torch.float64) / 8
    kernels = torch.stack([across, across.T])[:, None]
    gradient = F.conv2d(F.pad(brightness, (1, 1, 1, 1), mode="replicate"), kernels)
    return (gradient.square().sum(1, keepdim=True) > threshold**2).to(torch.uint8)
