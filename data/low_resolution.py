"""A condition made of the pictures themselves: each as it is when it is smaller, by means over areas.

A model that is told it makes large pictures of small ones, as those of a cascade do (Ho et al. 2021, arXiv:2106.15282;
Dhariwal & Nichol 2021, arXiv:2105.05233). It is told in the units of pictures that are points: level 0 is `low`, and
the highest level `high`.
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

LOW_RESOLUTION = "low_resolution"
# Pictures that are made smaller together.
_AT_ONCE = 1024


def with_low_resolution(dataset: Dataset, height: int, low: float = -1.0, high: float = 1.0) -> Dataset:
    """Return data whose condition `low_resolution` is each picture at another height, in proportion.

    Args:
        dataset: pictures `(N, C, H, W)` of levels, or none, of which the shape is known.
        height: the height of small pictures.
        low: what a model is told of level 0.
        high: what it is told of the highest level.

    Raises:
        UserError: the data are no pictures, or cannot be made smaller evenly.
    """
    if not dataset.is_image or dataset.levels is None:
        raise UserError(f"low_resolution is for pictures, and {dataset.name} has {dataset.kind}")
    channels, *size = dataset.shape
    if size[0] % height or size[1] * height % size[0]:
        raise UserError(f"pictures of {size[0]} x {size[1]} cannot be made {height} high evenly: take a divisor")
    small = (height, size[1] * height // size[0])
    std = torch.full((channels, 1, 1), (dataset.levels - 1) / (high - low), dtype=torch.float64)
    units = ConditionUnits((channels, *small), Standardised(-low * std, std))
    made = {part: {LOW_RESOLUTION: _smaller(getattr(dataset, part), units.shape)} for part in PARTS}
    conditions = {part: {**dataset.conditions.get(part, {}), **arrays} for part, arrays in made.items()}
    return replace(dataset, conditions=conditions, condition_units={**dataset.condition_units, LOW_RESOLUTION: units})


def _smaller(pictures: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return pictures `(N, C, H, W)` of levels with a smaller shape, by means over areas, as real numbers."""
    if not len(pictures):
        return torch.empty(0, *shape)
    return torch.cat([F.interpolate(part.float(), shape[1:], mode="area") for part in pictures.split(_AT_ONCE)])
