"""Grids of the noise's standard deviations, from 80 down, from each of which a peer goes to the next; and its noise.

log              sigma uniform in log sigma
karras           sigma^(1/7) uniform; cubic sigma^(1/3); quadratic sigma^(1/2)
                 (Karras et al. 2022, arXiv:2206.00364, equation 5)
t, t^2, t^3      t, t^(1/2), t^(1/3) uniform, in the time of the variance-preserving process that has
                 `log(1 + sigma^2)` quadratic in t, sigma(1) = 80 and sigma(0.001) the smallest
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problems import SIGMA_MAX, SIGMA_MIN
from score_sde.solvers.base import Model

Sampler = Callable[[Model, Tensor, int], Tensor]

POWERS = {"karras": 7, "cubic": 3, "quadratic": 2}
TIMES = {"t": 1, "t^2": 2, "t^3": 3}
SMALLEST_TIME = 1e-3


def levels(name: str, count: int, smallest: float = SIGMA_MIN) -> Tensor:
    """Return `count` standard deviations of the noise, from 80 to the smallest."""
    position = torch.linspace(0, 1, count, dtype=torch.float64)
    if name == "log":
        return SIGMA_MAX * (smallest / SIGMA_MAX) ** position
    if name in TIMES:
        return of_time(_powers(1.0, SMALLEST_TIME, position, TIMES[name]), smallest)
    return _powers(SIGMA_MAX, smallest, position, POWERS[name])


def noise(model: Model, x: Tensor, sigma: Tensor) -> Tensor:
    """Return the model's noise where its standard deviation is `sigma`."""
    return -sigma.to(x) * model.score(x, time_of(sigma))


def time_of(sigma: Tensor) -> Tensor:
    """Return the time of `VESDE(0.002, 80)` at which the noise has this standard deviation."""
    return torch.log(sigma / SIGMA_MIN) / math.log(SIGMA_MAX / SIGMA_MIN)


def _powers(first: float, last: float, position: Tensor, power: int) -> Tensor:
    return (first ** (1 / power) + position * (last ** (1 / power) - first ** (1 / power))) ** power


def of_time(t: Tensor, smallest: float) -> Tensor:
    """Return sigma, where `log(1 + sigma^2) = b t + c t^2` has its values at the ends."""
    at_one, at_end = math.log1p(SIGMA_MAX**2), math.log1p(smallest**2)
    c = (at_end / SMALLEST_TIME - at_one) / (SMALLEST_TIME - 1)
    return torch.expm1((at_one - c) * t + c * t**2).sqrt()
