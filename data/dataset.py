r"""Data, and the units that models see them in.

Quantised data are whole levels `k = 0 … K - 1`. Level `k` stands for the interval `[k, k + 1)`: with uniform noise `u`
in [0, 1), `k + u` has a density, and that density is what continuous models learn (Theis et al. 2016,
arXiv:1511.01844). A linear map takes `[0, K)` to model units,

    x = low + bin_width (k + u),        bin_width = (high - low) / K,

so that with `low, high = -1, 1` a level is a bin of width `2 / K`, and all of `[-1, 1)` is used. Vectors, which have no
levels, are their own model units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from score_sde.common.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test examples.

    Attributes:
        name: what it is called.
        train: `(N, *shape)`; levels as uint8, or vectors as float32. Pictures have shape `(channels, height, width)`.
        test: examples never used for a choice; likewise.
        validation: examples taken from the training part for making choices; empty unless asked for.
        train_classes: class of each training example `(N,)`, int64; None if there are no classes.
        test_classes: of each test example, likewise.
        validation_classes: of each validation example, likewise.
        class_names: what classes are called, in their order; their numbers, if left out; empty if there are none.
        notes: what the user should know of the reading, a line each.
        levels: number of levels `K`, or None for data that have none.
        low: model units of the lower edge of level 0.
        high: model units of the upper edge of level `K - 1`.
    """

    name: str
    train: Tensor
    test: Tensor
    levels: int | None = None
    low: float = -1.0
    high: float = 1.0
    validation: Tensor = field(default_factory=lambda: torch.empty(0))
    train_classes: Tensor | None = None
    test_classes: Tensor | None = None
    validation_classes: Tensor | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.train_classes is not None and not self.class_names:
            numbers = range(int(self.train_classes.max()) + 1)
            object.__setattr__(self, "class_names", tuple(map(str, numbers)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.train.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 if there are none."""
        return len(self.class_names)

    def named(self, numbers: Tensor | None) -> list[str] | None:
        """What classes `(N,)` are called; None for None."""
        return None if numbers is None else [self.class_names[k] for k in numbers.tolist()]

    @property
    def description(self) -> dict[str, Any]:
        """What a model of these data needs to know of them, in plain values; see `described`."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "levels": self.levels,
            "class_names": list(self.class_names),
        }

    @property
    def is_image(self) -> bool:
        """Whether examples are pictures `(channels, height, width)` of levels."""
        return self.levels is not None and len(self.shape) == 3

    def check_like(self, description: Mapping[str, Any], knows_classes: bool, where: str) -> None:
        """See that a model that was trained on data of this description may be used with these.

        Args:
            description: of the data that it was trained on.
            knows_classes: whether the model does, so that their numbers must mean the same.
            where: the model, for the complaint.

        Raises:
            UserError: examples have another shape or other levels, or classes are others.
        """
        here, there = self.description, dict(description)
        for key, what in {"shape": "examples of shape", "levels": "levels", "class_names": "classes"}.items():
            if here[key] != there[key] and (knows_classes or key != "class_names"):
                raise UserError(
                    f"{self.name} has {what} {_plain(here[key])}, but {where} was trained on {_plain(there[key])}: "
                    "give it the same data, or train another model in another --workdir"
                )

    @property
    def bin_width(self) -> float:
        """Width of a level in model units; 1 for data without levels, whose densities need no conversion."""
        return 1.0 if self.levels is None else (self.high - self.low) / self.levels

    def scale(self, x: Tensor) -> Tensor:
        """Data units to model units: `[0, K)` to `[low, high)`; the identity for vectors."""
        return x if self.levels is None else self.low + self.bin_width * x

    def unscale(self, x: Tensor) -> Tensor:
        """Model units to data units; the inverse of `scale`."""
        return x if self.levels is None else (x - self.low) / self.bin_width

    def dequantise(self, examples: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Examples `(B, *shape)` in model units: levels with uniform noise, `scale(k + u)`; vectors as they are."""
        if self.levels is None:
            return examples
        noise = torch.rand(
            examples.shape, generator=generator, device=generator.device if generator else examples.device
        )
        return self.scale(examples + noise.to(examples.device))

    def stretch(self, examples: Tensor) -> Tensor:
        """Examples `(B, *shape)` in model units without noise: level 0 becomes `low`, level `K - 1` `high`."""
        if self.levels is None:
            return examples
        return self.low + (self.high - self.low) / (self.levels - 1) * examples

    def quantise(self, x: Tensor) -> Tensor:
        """The level in whose bin each number of `x` lies, or the nearest if in none; uint8, shape of `x`."""
        assert self.levels is not None, f"{self.name} has no levels"
        return self.unscale(x).floor().clamp(0, self.levels - 1).to(torch.uint8)

    def to_uint8(self, x: Tensor) -> Tensor:
        """Pictures `(B, C, H, W)` in model units as uint8 `(B, H, W, C)`, as in `levels_to_uint8`."""
        return self.levels_to_uint8(self.quantise(x))

    def levels_to_uint8(self, examples: Tensor) -> Tensor:
        """Pictures `(B, C, H, W)` of levels as uint8 `(B, H, W, C)`: level 0 becomes 0, level `K - 1` 255."""
        assert self.levels is not None, f"{self.name} has no levels"
        grey = (examples.double() * (255 / (self.levels - 1))).round().to(torch.uint8)
        return grey.movedim(1, -1).contiguous()

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of training examples, dequantised, in model units; float64, each of shape `shape`."""
        x = self.train.double()
        mean, variance = x.mean(0), x.var(0, correction=0)
        if self.levels is None:
            return mean, variance
        # The uniform noise adds 1/2 to the mean and 1/12 to the variance.
        return self.scale(mean + 0.5), self.bin_width**2 * (variance + 1 / 12)


def described(description: Mapping[str, Any], low: float, high: float) -> Dataset:
    """A dataset of this description without examples, for models that need none any more."""
    shape, levels = description["shape"], description["levels"]
    empty = torch.empty(0, *shape, dtype=torch.float32 if levels is None else torch.uint8)
    names = tuple(description["class_names"])
    return Dataset(description["name"], empty, empty, levels, low, high, empty, class_names=names)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
