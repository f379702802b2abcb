r"""Model units: the numbers that models see, made of examples and made into examples again.

Quantised data are whole levels `k = 0 … K - 1`. A model of densities sees them in one of two ways:

    bins      level `k` stands for `[k, k + 1)`: with uniform noise `u` in [0, 1), `k + u` has a density, and that is
              what continuous models learn (Theis et al. 2016, arXiv:1511.01844),
                  x = low + spacing (k + u),     spacing = (high - low) / K,     place = low + spacing / 2
    points    level `k` is a point,
                  x = low + spacing k,           spacing = (high - low) / (K - 1),     place = low

`place` is where level 0 is (of a bin, its middle), `spacing` how far from it level 1. Whatever the way, a number of the
model becomes the level `floor((x - low) K / (high - low))`, or the nearest there is.

What has no levels is standardised, since processes and networks are made for numbers around 1: with mean `m` and
standard deviation `s` of the training part, of each column of vectors `(d,)`, of each channel of `(C, *sizes)`,

    x = (y - m) / s,

or, of vectors that lie in a box (`data.box`), of their unbounded numbers `z(y)`: `x = (z - m) / s`. What is NaN was not
observed: moments are those of what was.

A density in the units of the data is that in model units times `|d x / d y|`, the product of all spacings (or `1 / s`,
times `dz / dy`):

    log p(y) = log p(x) + log |d x / d y|.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.float64 import in_float64
from score_sde.data.box import Box

# Numbers that are looked at together, where data may be larger than memory.
_AT_ONCE = 2**24
# Two units are the same whose means and deviations differ by less, in parts of the deviation.
_SAME = 1e-6


class Noise(Protocol):
    """Draws random numbers, as `common.noise.SampleNoise` does."""

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers of the shape, dtype and device of `like`."""

    def uniform(self, like: Tensor) -> Tensor:
        """Draw numbers in [0, 1) of the shape, dtype and device of `like`."""


class Units(Protocol):
    """Units turn the examples of a dataset into the numbers that models see, and back.

    Numbers of models have the shape of examples, but for those of `data.latent_units`.

    Attributes:
        levels: number of levels `K`; None for what has none.
        spacing: distance of neighbouring levels in model units; 1 for what has no levels.
    """

    @property
    def levels(self) -> int | None:
        """The number of levels is None for what has none."""

    @property
    def spacing(self) -> float:
        """The spacing is the distance of neighbouring levels in model units; 1 for what has no levels."""

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of what models see of an example of this shape."""

    def encode(self, examples: Tensor, noise: Noise | None = None) -> Tensor:
        """Turn examples `(B, *shape)` into model units; bins get noise, or without it give their middles."""

    def decode(self, x: Tensor) -> Tensor:
        """Turn numbers in model units, `(B, *shape)`, into examples."""

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of encoded examples, over examples and noise; float64, each of shape `shape`."""

    def log_scale(self, shape: Sequence[int]) -> float:
        """Return `log |d x / d y|` of an example of this shape, in nats; in a box, `log |d x / d z|`."""


@dataclass(frozen=True, eq=False)
class Standardised:
    """Numbers without levels are standardised, in float64; models see what is left in torch's default dtype.

    Args:
        mean: what becomes 0; float64, of a shape that broadcasts to an example.
        std: what becomes 1; likewise.
        dtype: the dtype of examples, which decoded numbers have.
        box: the box that examples lie in; it is their unbounded numbers that are standardised then.
    """

    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    std: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.float64))
    dtype: torch.dtype = torch.float32
    levels: None = None
    spacing: float = 1.0
    box: Box | None = None

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of what models see of an example, which is its own."""
        return tuple(shape)

    def encode(self, examples: Tensor, noise: Noise | None = None) -> Tensor:
        """Return examples `(B, *shape)` in model units, in torch's default dtype; no noise is drawn."""
        if self._is_identity:
            return examples
        exact = self._unbounded(in_float64(examples))
        x = (exact - self.mean.to(exact.device)) / self.std.to(exact.device)
        return x.to(torch.get_default_dtype()).to(examples.device)

    def decode(self, x: Tensor) -> Tensor:
        """Return numbers in model units `(B, *shape)` in those of the data, and in their dtype."""
        if self._is_identity:
            return x
        exact = in_float64(x)
        numbers = exact * self.std.to(exact.device) + self.mean.to(exact.device)
        return numbers.to(self.dtype) if self.box is None else self.box.bounded(numbers, self.dtype)

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of encoded examples; float64, each of shape `shape`."""
        mean, variance = moments(examples if self.box is None else self._unbounded(examples.double()))
        return (mean - self.mean) / self.std, variance / self.std**2

    def log_scale(self, shape: Sequence[int]) -> float:
        """Return `log |d x / d y|`, the sum of `-log s` over the numbers of an example of this shape, in nats."""
        return -self.std.log().expand(tuple(shape)).sum().item()

    def log_scales(self, examples: Tensor) -> Tensor:
        """Return `log |d x / d y|` of each of examples `(B, *shape)`, in nats; `(B,)`, float64, differentiable.

        Outside the box, if there is one, it is minus infinity, as the logarithm of the density is. Of numbers that were
        not observed, which are NaN, there is no scale.
        """
        whole = torch.full((len(examples),), self.log_scale(examples.shape[1:]), dtype=torch.float64)
        if bool((unknown := examples.isnan()).any()):
            whole = whole + (unknown.cpu() * self.std.log()).flatten(1).sum(1)
        if self.box is None:
            return whole
        whole = whole.to(examples.device)
        found = self.box.log_derivative(self._unbounded(in_float64(examples))) + whole
        return torch.where(self.box.holds(examples).to(found.device), found, -math.inf)

    def is_like(self, other: Standardised) -> bool:
        """Return whether these units and others make the same numbers of examples, to 1e-6 of their deviation."""
        same_box = (self.box and self.box.describe()) == (other.box and other.box.describe())
        if not same_box or self.mean.shape != other.mean.shape:
            return False
        off = torch.maximum((self.mean - other.mean).abs(), (self.std - other.std).abs()) / self.std
        return bool((off < _SAME).all())

    def _unbounded(self, exact: Tensor) -> Tensor:
        """Return examples `(B, *shape)`, float64, as what is standardised: in a box, as unbounded numbers."""
        return exact if self.box is None else self.box.unbounded(exact, torch.finfo(self.dtype).eps / 2)

    @property
    def _is_identity(self) -> bool:
        """Whether nothing is changed; then not even the dtype is."""
        return (
            self.box is None and self.mean.ndim == self.std.ndim == 0 and self.mean.item() == 0 and self.std.item() == 1
        )


def standardised(examples: Tensor, box: Box | None = None) -> Standardised:
    """Return the units in which these examples `(N, *shape)`, which have no levels, have mean 0 and deviation 1.

    Args:
        examples: the training part.
        box: a box that they lie in.

    Raises:
        UserError: a column or a channel is the same number in every example; the line names it.
    """
    dtype = examples.dtype
    if box is not None:
        examples = Standardised(dtype=dtype, box=box)._unbounded(examples.double())
    mean, std = mean_and_std(examples)
    constant = torch.nonzero(~(std.flatten() > 0)).flatten().tolist()
    if constant and len(examples) > 1:
        what = "column" if examples.ndim == 2 else "channel"
        raise UserError(
            f"{what} {constant[0]} is {mean.flatten()[constant[0]]:.5g} in every example, so it has no density: leave "
            "it out"
        )
    return Standardised(mean, torch.where(std > 0, std, 1.0), dtype, box=box)


def mean_and_std(examples: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of examples `(N, *shape)`, of each column or channel; float64, broadcast to `shape`."""
    mean, variance = moments(examples)
    if examples.ndim > 2 and bool(mean.isnan().any()):
        # Places that were never observed decide nothing.
        places, seen = tuple(range(1, mean.ndim)), ~mean.isnan()
        count = seen.sum(places, keepdim=True)
        of_channel = torch.where(seen, mean, 0).sum(places, keepdim=True) / count
        between = torch.where(seen, mean - of_channel, 0).square().sum(places, keepdim=True) / count
        mean, variance = of_channel, torch.where(seen, variance, 0).sum(places, keepdim=True) / count + between
    elif examples.ndim > 2:
        # The numbers of a channel share a scale: its variance is that within places and that between them.
        places = tuple(range(1, mean.ndim))
        between = mean.var(places, correction=0, keepdim=True) if mean[0].numel() else variance
        mean, variance = mean.mean(places, keepdim=True), variance.mean(places, keepdim=True) + between
    return mean, variance.sqrt()


def moments(examples: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of examples `(N, *shape)` over examples, part by part; float64, of shape `shape`.

    NaN are left out; both are NaN where there is no other number.
    """
    parts = examples.split(max(1, _AT_ONCE // max(1, examples[:1].numel())))
    count: int | Tensor = len(examples)
    if examples.is_floating_point() and any(bool(part.isnan().any()) for part in parts):
        count = sum(((~part.isnan()).sum(0) for part in parts), torch.zeros(examples.shape[1:]))
    known = (lambda part: part) if isinstance(count, int) else torch.nan_to_num
    zeros = torch.zeros(examples.shape[1:], dtype=torch.float64)
    mean = sum((known(part.double()).sum(0) for part in parts), zeros) / count
    spread = sum((known(part.double() - mean).square().sum(0) for part in parts), zeros)
    return mean, spread / count


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

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of what models see of an example, which is its own."""
        return tuple(shape)

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

    def encode(self, examples: Tensor, noise: Noise | None = None) -> Tensor:
        """Turn levels `(B, *shape)` into places in their bins: random ones, or the middles without `noise`."""
        levels = as_numbers(examples)
        return self.low + self.spacing * (levels + (0.5 if noise is None else noise.uniform(levels)))

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance over examples and noise, which adds 1/2 of a bin and 1/12 of its square; float64."""
        mean, variance = moments(examples)
        return self.low + self.spacing * (mean + 0.5), self.spacing**2 * (variance + 1 / 12)

    def log_scale(self, shape: Sequence[int]) -> float:
        """Return `log |d x / d k|` of an example of this shape, in nats: one `log spacing` a number."""
        return math.prod(shape) * math.log(self.spacing)


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

    def encode(self, examples: Tensor, noise: Noise | None = None) -> Tensor:
        """Turn levels `(B, *shape)` into their points; no noise is drawn."""
        return self.low + self.spacing * examples

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the points; float64."""
        mean, variance = moments(examples)
        return self.low + self.spacing * mean, self.spacing**2 * variance

    def log_scale(self, shape: Sequence[int]) -> float:
        """Return `log |d x / d k|` of an example of this shape, in nats: one `log spacing` a number."""
        return math.prod(shape) * math.log(self.spacing)


def units_of(
    examples: Tensor,
    levels: int | None,
    low: float = -1.0,
    high: float = 1.0,
    as_bins: bool = True,
    box: Box | None = None,
) -> Units:
    """Return the units of data: bins or points of `[low, high]` for so many levels, or, for None, standardised ones.

    Args:
        examples: the training part `(N, *shape)`, which decides how numbers without levels are standardised.
        levels: number of levels; None for numbers without any.
        low: lower end of the levels' interval, in model units.
        high: its upper end.
        as_bins: whether levels are bins or points.
        box: the box that numbers without levels lie in.

    Raises:
        UserError: as of `standardised`, or of `Bins`, or levels are to lie in a box.
    """
    if levels is None:
        return standardised(examples, box)
    if box is not None:
        raise UserError("a box is for numbers without levels: leave it out")
    return (Bins if as_bins else Points)(levels, low, high)


def describe_units(units: Units) -> dict[str, Any] | None:
    """Return what is known of standardised units, in plain values; None for levels, which a configuration describes."""
    if not isinstance(units, Standardised):
        return None
    numbers = {name: getattr(units, name).flatten().tolist() for name in ("mean", "std")}
    box = {} if units.box is None else {"box": units.box.describe()}
    return {**numbers, "shape": list(units.mean.shape), "dtype": str(units.dtype).removeprefix("torch."), **box}


def units_described(description: Mapping[str, Any] | None) -> Standardised:
    """Return the standardised units that `describe_units` described; for None, those that change nothing."""
    if description is None:
        return Standardised()
    mean, std = (
        torch.tensor(description[name], dtype=torch.float64).reshape(description["shape"]) for name in ("mean", "std")
    )
    box = Box.described(description["box"]) if "box" in description else None
    return Standardised(mean, std, getattr(torch, description["dtype"]), box=box)


def as_numbers(levels: Tensor) -> Tensor:
    """Return levels as numbers to compute with: whole numbers as float32, others as they are."""
    return levels if levels.is_floating_point() else levels.float()
