r"""A box that examples lie in, such as the one that a uniform prior has: numbers on intervals become unbounded ones.

Each number `y` in `(a, b)` becomes

    z = Phi^{-1}(u),    u = (y - a) / (b - a),    log dz/dy = z^2/2 + log(2 pi)/2 - log(b - a),

with `Phi` the standard normal distribution function. What is uniform in the box becomes `N(0, I)`, and a density that
does not vanish at an edge one with the tails of a Gaussian, which a diffusion begins with: easier than a logit's.
On an edge, or beyond, `u` counts as half a rounding inside; beyond, the density is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from score_sde.common.errors import UserError


@dataclass(frozen=True, eq=False)
class Box:
    """A box has two ends for each number of a vector.

    Attributes:
        low: lower ends `(d,)`, float64.
        high: upper ends, likewise.
    """

    low: Tensor
    high: Tensor

    def unbounded(self, y: Tensor, resolution: float) -> Tensor:
        """Return numbers `(B, d)` of the box, float64, as unbounded ones; differentiable.

        Args:
            y: the numbers.
            resolution: half a rounding of `u`: what is nearer to an edge counts as so near.
        """
        low, high = self.low.to(y.device), self.high.to(y.device)
        return torch.special.ndtri(((y - low) / (high - low)).clamp(resolution, 1 - resolution))

    def bounded(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """Return unbounded numbers `(B, d)`, float64, as ones that lie in the box, in this dtype; differentiable."""
        low, high = self.low.to(z.device), self.high.to(z.device)
        y = (low + (high - low) * torch.special.ndtr(z)).to(dtype)
        # Rounded, the ends of the box may lie outside, and what is close to them.
        first, last = low.to(dtype), high.to(dtype)
        first = torch.where(first < low, torch.nextafter(first, last), first)
        last = torch.where(last > high, torch.nextafter(last, first), last)
        return torch.minimum(torch.maximum(y, first), last)

    def log_derivative(self, z: Tensor) -> Tensor:
        """Return `log |dz / dy|` of unbounded numbers `(B, d)`, `(B,)`, in nats; differentiable; NaN has none."""
        width = (self.high - self.low).to(z)
        return (z**2 / 2 + math.log(2 * math.pi) / 2 - width.log()).nansum(1)

    def holds(self, y: Tensor) -> Tensor:
        """Return whether numbers `(B, d)` lie in the box, bool, `(B,)`; edges, as their dtype has them, and NaN do."""
        return ~((y < self.low.to(y)) | (y > self.high.to(y))).any(1)

    def describe(self) -> dict[str, list[float]]:
        """Return the ends in plain values."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    @staticmethod
    def described(description: Mapping[str, Any]) -> Box:
        """Return the box that `describe` described."""
        return Box(*(torch.tensor(description[name], dtype=torch.float64) for name in ("low", "high")))


def box_of(low: Sequence[float], high: Sequence[float], shape: tuple[int, ...]) -> Box | None:
    """Return the box with these ends, each one number, or one for each of a vector's; None for none.

    Args:
        low: lower ends.
        high: upper ends.
        shape: the shape of an example, which must be a vector.

    Raises:
        UserError: examples are no vectors, there are other numbers of ends, or they are no intervals.
    """
    if not low and not high:
        return None
    if len(shape) != 1:
        raise UserError(f"a box is for vectors, not for examples of shape {shape}")
    size = shape[0]
    if len(low) not in (1, size) or len(high) not in (1, size):
        raise UserError(
            f"a box of {size} numbers has {size} lower and {size} upper ends, or one, not {len(low)} and {len(high)}"
        )
    ends = [torch.tensor(end, dtype=torch.float64).expand(size).contiguous() for end in (low, high)]
    if not bool((torch.isfinite(ends[0]) & torch.isfinite(ends[1]) & (ends[0] < ends[1])).all()):
        raise UserError(
            f"the lower ends of a box lie below its upper ones, and are finite, unlike {list(low)} and {list(high)}"
        )
    return Box(*ends)
