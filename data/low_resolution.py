r"""A condition made of the pictures themselves: each as it is when it is smaller, by means over areas.

A model that is told it makes large pictures of small ones, as those of a cascade do (Ho et al. 2021, arXiv:2106.15282;
Dhariwal & Nichol 2021, arXiv:2105.05233). It is told in the units of pictures that are points: grey level 0 is `low`,
and the highest one `high`.

Small pictures that a model has drawn are not those of the data. So that the next model does not trust their every
detail, it is trained on ones with noise, as at a random time of a VP process (conditioning augmentation: Ho et al.
2021, section 4.2), before they are brought to the size of the large ones, by `U`, which is linear:

    U(c_s) = sqrt(1 - s^2) U(c) + s U(n),        n ~ N(0, I),        s ~ uniform(0, s_max)

It is told `s`, too, under a name of its own, and always: neither is hidden where other conditions are. To sample, `s`
is chosen; of a clean picture, as data and people have them, it is 0.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise, SampleNoise
from score_sde.data.conditions import ConditionUnits
from score_sde.data.dataset import Dataset
from score_sde.data.units import Standardised
from score_sde.data.words import PARTS

LOW_RESOLUTION = "low_resolution"
# The standard deviation `s` of the noise in it.
NOISE = "low_resolution_noise"
# Pictures that are made smaller together.
_AT_ONCE = 1024


def with_low_resolution(
    dataset: Dataset, height: int, low: float = -1.0, high: float = 1.0, noise: float = 0.0
) -> Dataset:
    """Return data whose condition `low_resolution` is each picture at another height, in proportion.

    Args:
        dataset: pictures `(N, C, H, W)` of levels, or none, of which the shape is known.
        height: the height of small pictures.
        low: what a model is told of level 0.
        high: what it is told of the highest level.
        noise: the most noise, `s_max`, that these get in training (`with_random_noise`); 0 if none ever, and a model is
            told of none.

    Raises:
        UserError: the data are no pictures, or cannot be made smaller evenly.
    """
    shape = _small_shape(dataset, height)
    assert dataset.levels is not None
    std = torch.full((shape[0], 1, 1), (dataset.levels - 1) / (high - low), dtype=torch.float64)
    units = ConditionUnits(shape, Standardised(-low * std, std))
    made = {part: {LOW_RESOLUTION: smaller(getattr(dataset, part), units.shape)} for part in PARTS}
    told: dict[str, ConditionUnits] = {LOW_RESOLUTION: units}
    if noise:
        # A uniform number is told with mean 0 and deviation 1.
        told[NOISE] = ConditionUnits((1,), Standardised(torch.tensor([noise / 2]), torch.tensor([noise / 12**0.5])))
        made = {part: {**arrays, NOISE: clean(len(getattr(dataset, part)))} for part, arrays in made.items()}
    conditions = {part: {**dataset.conditions.get(part, {}), **arrays} for part, arrays in made.items()}
    return replace(dataset, conditions=conditions, condition_units={**dataset.condition_units, **told})


def shrunk(dataset: Dataset, height: int) -> Dataset:
    """Return data whose pictures are brought to a smaller height by means over areas, and to the nearest levels.

    Raises:
        UserError: the data are no pictures, or cannot be made smaller evenly.
    """
    shape = _small_shape(dataset, height)
    parts = {part: to_levels(smaller(getattr(dataset, part), shape)) for part in PARTS}
    return replace(dataset, train=parts["train"], validation=parts["validation"], test=parts["test"])


def clean(count: int) -> Tensor:
    """Return the noise of so many small pictures that have none, `(count, 1)`, in data units."""
    return torch.zeros(count, 1)


def with_noise(condition: Condition, dataset: Dataset, std: Tensor, source: BatchNoise | SampleNoise) -> Condition:
    """Return a condition with noise in its small pictures, of which it tells.

    Args:
        condition: what models are told, of clean small pictures among others.
        dataset: the data that these are of.
        std: the noise's standard deviation `s` of each example, `(B,)`.
        source: the noise is drawn from it.
    """
    units, picture = dataset.condition_units[LOW_RESOLUTION], condition.values[LOW_RESOLUTION]
    assert isinstance(units, ConditionUnits)
    drawn = source.normal(picture.new_empty(len(picture), *units.shape))
    s = std.to(picture).reshape(-1, *(1,) * (picture.ndim - 1))
    noisy = (1 - s**2).sqrt() * picture + s * units.brought_to(dataset.model_shape, drawn)
    told = dataset.told({NOISE: std[:, None]})[NOISE]
    return Condition({**condition.values, LOW_RESOLUTION: noisy, NOISE: told}, condition.hidden_rows)


def with_random_noise(condition: Condition, dataset: Dataset, most: float, source: BatchNoise) -> Condition:
    """Return the condition of training examples with noise of random standard deviations, at `most` this; else as of
    `with_noise`."""
    picture = condition.values[LOW_RESOLUTION]
    std = most * source.uniform(torch.empty(len(picture), device=picture.device))
    return with_noise(condition, dataset, std, source)


def smaller(pictures: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return pictures `(N, C, H, W)` of levels with a smaller shape, by means over areas, as real numbers."""
    if not len(pictures):
        return torch.empty(0, *shape)
    return torch.cat([F.interpolate(part.float(), shape[1:], mode="area") for part in pictures.split(_AT_ONCE)])


def to_levels(pictures: Tensor) -> Tensor:
    """Return the nearest levels of pictures of real numbers, uint8."""
    return pictures.round().to(torch.uint8)


def _small_shape(dataset: Dataset, height: int) -> tuple[int, ...]:
    """Return the shape of pictures at another height, in proportion."""
    if not dataset.is_image or dataset.levels is None:
        raise UserError(f"pictures can be made smaller, and {dataset.name} has {dataset.kind}")
    channels, *size = dataset.shape
    if size[0] % height or size[1] * height % size[0]:
        raise UserError(f"pictures of {size[0]} x {size[1]} cannot be made {height} high evenly: take a divisor")
    return (channels, height, size[1] * height // size[0])
