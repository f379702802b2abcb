r"""Model units: the numbers that models see, made of examples and made into examples again.

Quantised data are whole levels `k = 0 … K - 1`. A model of densities sees them in one of two ways:

    bins      level `k` stands for `[k, k + 1)`: with uniform noise `u` in [0, 1), `k + u` has a density, and that is
              what continuous models learn (Theis et al. 2016, arXiv:1511.01844),
                  x = low + spacing (k + u),     spacing = (high - low) / K,     place = low + spacing / 2
    points    level `k` is a point,
                  x = low + spacing k,           spacing = (high - low) / (K - 1),     place = low

`place` is where level 0 is (of a bin, its middle), `spacing` how far from it level 1. Vectors, which have no levels,
are their own model units.

Whatever the way, a number of the model becomes the level `floor((x - low) K / (high - low))`, or the nearest there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from score_sde.common.errors import UserError


class Uniform(Protocol):
    """Draws uniform numbers, as `common.noise.SampleNoise` does."""

    def uniform(self, like: Tensor) -> Tensor:
        """Draw numbers in [0, 1) of the shape, dtype and device of `like`."""


class Units(Protocol):
    """Units turn the examples of a dataset into the numbers that models see, and back.

    Attributes:
        levels: number of levels `K`; None for vectors.
        spacing: distance of neighbouring levels in model units; 1 for vectors.
    """

    @property
    def levels(self) -> int | None:
        """The number of levels is None for vectors."""

    @property
    def spacing(self) -> float:
        """The spacing is the distance of neighbouring levels in model units; 1 for vectors."""

    def encode(self, examples: Tensor, noise: Uniform | None = None) -> Tensor:
        """Turn examples `(B, *shape)` into model units; bins get noise, or without it give their middles."""

    def decode(self, x: Tensor) -> Tensor:
        """Turn numbers in model units, `(B, *shape)`, into examples."""

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of encoded examples, over examples and noise; float64, each of shape `shape`."""


@dataclass(frozen=True)
class Vectors:
    """Models see vectors as they are."""

    levels: None = None
    spacing: float = 1.0

    def encode(self, examples: Tensor, noise: Uniform | None = None) -> Tensor:
        """Return the examples."""
        return examples

    def decode(self, x: Tensor) -> Tensor:
        """Return the numbers."""
        return x

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of examples; float64, each of shape `shape`."""
        return examples.double().mean(0), examples.double().var(0, correction=0)


@dataclass(frozen=True)
class _Levels:
    """Levels lie on an interval of model units.

    Args:
        levels: number of levels `K`.
        low: lower end of the interval, in model units.
        high: upper end of the interval, in model units.

    Raises:
        UserError: there are fewer than two levels, or `low` is not below `high`.
    """

    levels: int
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (self.levels >= 2 and self.low < self.high):
            raise UserError(f"levels must be two or more, and low below high, unlike {self}")

    @property
    def bins(self) -> Bins:
        """The bins of these levels divide their interval evenly."""
        return Bins(self.levels, self.low, self.high)

    def decode(self, x: Tensor) -> Tensor:
        """Return the level in whose bin each number of `x` lies, or the nearest if in none; uint8, shape of `x`."""
        return ((x - self.low) / self.bins.spacing).floor().clamp(0, self.levels - 1).to(torch.uint8)


class Bins(_Levels):
    """Bins are levels as intervals, in which data are uniform: `[low, high)` is divided evenly among them."""

    @property
    def spacing(self) -> float:
        """The spacing is the width of a bin."""
        return (self.high - self.low) / self.levels

    @property
    def place(self) -> float:
        """The place of level 0 is the middle of its bin."""
        return self.low + self.spacing / 2

    @property
    def log_scale(self) -> float:
        """`log dx / dk` is what each number adds to the log-density of examples in units of levels."""
        return math.log(self.spacing)

    def encode(self, examples: Tensor, noise: Uniform | None = None) -> Tensor:
        """Turn levels `(B, *shape)` into places in their bins: random ones, or the middles without `noise`."""
        levels = as_numbers(examples)
        return self.low + self.spacing * (levels + (0.5 if noise is None else noise.uniform(levels)))

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance over examples and noise, which adds 1/2 of a bin and 1/12 of its square; float64."""
        mean, variance = Vectors().moments(examples)
        return self.low + self.spacing * (mean + 0.5), self.spacing**2 * (variance + 1 / 12)


class Points(_Levels):
    """Points are levels as single numbers: level 0 is at `low`, level `K - 1` at `high`."""

    @property
    def spacing(self) -> float:
        """The spacing is the distance of neighbouring points."""
        return (self.high - self.low) / (self.levels - 1)

    @property
    def place(self) -> float:
        """The place of level 0 is `low`."""
        return self.low

    def encode(self, examples: Tensor, noise: Uniform | None = None) -> Tensor:
        """Turn levels `(B, *shape)` into their points; no noise is drawn."""
        return self.low + self.spacing * examples

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the points; float64."""
        mean, variance = Vectors().moments(examples)
        return self.low + self.spacing * mean, self.spacing**2 * variance


def units_of(levels: int | None, low: float = -1.0, high: float = 1.0, as_bins: bool = True) -> Units:
    """Return the units of data with so many levels, as bins or points of `[low, high]`, or of vectors for None."""
    if levels is None:
        return Vectors()
    return (Bins if as_bins else Points)(levels, low, high)


def as_numbers(levels: Tensor) -> Tensor:
    """Return levels as numbers to compute with: whole numbers as float32, others as they are."""
    return levels if levels.is_floating_point() else levels.float()
