r"""What a decoder's numbers say of an example: a distribution around them, with one width that is learned.

With `m` the decoder's output, in model units, and `s` the width,

    levels      P(k | z) = F((c_k + w/2 - m) / s) - F((c_k - w/2 - m) / s),    F(u) = 1 / (1 + e^{-u})

of the logistic distribution function on the bin of each level, of middle `c_k` and width `w`, with open ends beyond the
first and the last level (Kingma et al. 2016, arXiv:1606.04934, section 5.1; Salimans et al. 2017, arXiv:1701.05517):
a probability. As `F(b) - F(a) = (1 - e^{a - b}) F(b) F(-a)`, no difference of nearly equal numbers is taken.

    numbers     p(x | z) = N(x; m, s^2)        of those without levels: a density, in model units.

Of a decoder that has no width of its own, `likeliest_width` of examples and what is decoded of them is one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What `log s` begins with.
_LOG_WIDTH = math.log(0.1)


class Logistic(nn.Module):
    """Levels have probabilities under a discretised logistic distribution.

    Args:
        levels: the number of levels `K`.
        place: where level 0 is (of a bin, its middle), in model units.
        spacing: how far from it level 1 is.
    """

    def __init__(self, levels: int, place: float, spacing: float) -> None:
        super().__init__()
        self.levels, self.place, self.spacing = levels, place, spacing
        self.log_width = nn.Parameter(torch.tensor([_LOG_WIDTH]))

    def most_likely(self, mean: Tensor) -> Tensor:
        """Return the middles of levels that lie nearest to what was decoded; of its shape."""
        level = ((mean - self.place) / self.spacing).round().clamp(0, self.levels - 1)
        return self.place + self.spacing * level

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return `log P(k | z)` `(B,)` of the levels in whose bins `x` `(B, *dims)` lies, summed over numbers, nats."""
        return log_prob_of_levels(x, mean, self.log_width, self.levels, self.place, self.spacing)


class Normal(nn.Module):
    """Numbers without levels have a normal density."""

    def __init__(self) -> None:
        super().__init__()
        self.log_width = nn.Parameter(torch.tensor([_LOG_WIDTH]))

    def most_likely(self, mean: Tensor) -> Tensor:
        """Return what was decoded, which has the highest density."""
        return mean

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return `log p(x | z)` `(B,)` of numbers `x` `(B, *dims)` in model units, summed over them, in nats."""
        mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
        error = (x.to(mean.dtype) - mean) * (-self.log_width).exp()
        return (-0.5 * error.square() - self.log_width - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def log_prob_of_levels(x: Tensor, mean: Tensor, log_width: Tensor, levels: int, place: float, spacing: float) -> Tensor:
    """Return what `Logistic.log_prob` does, of a width by its logarithm, and levels as `Logistic` has them."""
    mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
    level = ((x - place) / spacing + 0.5).floor().clamp(0, levels - 1).to(mean.dtype)
    middle, inverse = place + spacing * level, (-log_width).exp()
    upper = (middle + spacing / 2 - mean) * inverse
    lower = (middle - spacing / 2 - mean) * inverse
    of_upper = torch.where(level == levels - 1, 0, F.logsigmoid(upper))
    of_lower = torch.where(level == 0, 0, F.logsigmoid(-lower))
    inside = (level > 0) & (level < levels - 1)
    of_both = torch.where(inside, torch.log(-torch.expm1(-spacing * inverse)), 0)
    return (of_upper + of_lower + of_both).flatten(1).sum(1)


def likeliest_width(x: Tensor, mean: Tensor, levels: int, place: float, spacing: float) -> float:
    """Return the width under which levels, in whose bins `x` `(B, *dims)` lies, are likeliest around `mean`.

    It is at least a hundredth of a bin, and at most as wide as all levels, in model units.
    """
    from scipy.optimize import minimize_scalar

    x, mean = x.cpu().double(), mean.cpu().double()

    def cost(log_width: float) -> float:
        width = torch.tensor(log_width, dtype=torch.float64)
        return -log_prob_of_levels(x, mean, width, levels, place, spacing).mean().item()

    ends = (math.log(spacing / 100), math.log(spacing * levels))
    return math.exp(minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-4}).x)
