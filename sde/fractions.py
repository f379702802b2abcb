r"""Distributions of the time itself, as a fraction `u = t / T`: those that rectified flows are trained with.

    logit-normal       log(u / (1 - u)) ~ N(mean, std^2)      Esser et al. 2024, arXiv:2403.03206, equation 19
    mode               u = 1 - v - s (cos^2(pi v / 2) - 1 + v), v uniform   equation 20; s the `scale`
    shifted            u -> a u / (1 + (a - 1) u)                           equation 23: sqrt(m / n) = a

The first two are cut off at `t_min`. The scale of the second is between -1 (for times near the ends) and 2 / (pi - 2);
0 is uniform. The third moves the times of another distribution; under rectified flow by `-2 log a` in log-SNR: the
`a^2` times as many pixels of a larger picture hide as much when there is so much more noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.sde.base import SDE, check_first_time
from score_sde.sde.marginals import on_host

# The largest scale of `Mode`, at which it stops being one.
MOST_SCALE = 2 / (math.pi - 2)
_BISECTION_STEPS = 64


class LogitNormal:
    """The distribution whose logit is normal, from `t_min` on."""

    def __init__(self, sde: SDE, t_min: float, mean: float, std: float) -> None:
        check_first_time(t_min, sde.T)
        self.t_min, self.T, self.mean, self.std = t_min, sde.T, mean, std
        first = torch.logit(torch.tensor(t_min / sde.T, dtype=torch.float64))
        self.cdf_low = float(torch.special.ndtr((first - mean) / std))

    def quantile(self, u: Tensor) -> Tensor:
        normal = torch.special.ndtri(self.cdf_low + (1 - self.cdf_low) * on_host(u))
        return (self.T * torch.sigmoid(self.mean + self.std * normal)).clamp(min=self.t_min)

    def density(self, t: Tensor) -> Tensor:
        u = on_host(t) / self.T
        z = (torch.logit(u) - self.mean) / self.std
        normal = torch.exp(-0.5 * z**2) / (self.std * math.sqrt(2 * math.pi) * (1 - self.cdf_low))
        return normal / (u * (1 - u) * self.T)


class Mode:
    """The distribution with a heavy middle, or heavy ends, from `t_min` on."""

    def __init__(self, sde: SDE, t_min: float, scale: float) -> None:
        check_first_time(t_min, sde.T)
        if not -1 <= scale <= MOST_SCALE:
            raise UserError(f"the mode's scale must lie between -1 and {MOST_SCALE:.4g}, not {scale:g}")
        self.t_min, self.T, self.scale = t_min, sde.T, scale
        self.last = float(self._place(torch.tensor(t_min / sde.T, dtype=torch.float64)))

    def quantile(self, u: Tensor) -> Tensor:
        return (self.T * self._fraction(self.last * (1 - on_host(u)))).clamp(min=self.t_min)

    def density(self, t: Tensor) -> Tensor:
        v = self._place(on_host(t) / self.T)
        slope = 1 + self.scale * (1 - 0.5 * math.pi * torch.sin(math.pi * v))
        return 1 / (self.T * self.last * slope)

    def _fraction(self, v: Tensor) -> Tensor:
        return 1 - v - self.scale * (torch.cos(0.5 * math.pi * v) ** 2 - 1 + v)

    def _place(self, u: Tensor) -> Tensor:
        """Return `v` of fractions `u`, which fall with it; shape of `u`."""
        low, high = torch.zeros_like(u), torch.ones_like(u)
        for _ in range(_BISECTION_STEPS):
            middle = (low + high) / 2
            late = self._fraction(middle) > u
            low, high = torch.where(late, middle, low), torch.where(late, high, middle)
        return (low + high) / 2


def shifted(u: Tensor, shift: float) -> Tensor:
    """Return the fractions `a u / (1 + (a - 1) u)`; shape of `u`."""
    return shift * u / (1 + (shift - 1) * u)
