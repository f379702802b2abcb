r"""Which times to train on: distributions of t.

A loss `∫ w(t) loss(t) dt` is estimated without bias from times of any density `p(t)`, as the mean of `w/p loss(t)`;
the choice of `p` only changes its variance. Three distributions on `[t_min, T]`, with `lambda = log_snr(t)` and
`rho = sigma / alpha = exp(-lambda / 2)`:

    uniform in t           p(t) = 1 / (T - t_min)
    uniform in log-SNR     p(t) = |lambda'(t)| / (lambda(t_min) - lambda(T))
    log-normal in rho      p(t) = |lambda'(t)| / 2 · N(log rho; mean, std^2) / Z    Karras et al. 2022, arXiv:2206.00364

The second is Song et al.'s importance sampling for the likelihood weighting `g^2 / sigma^2` of the noise error (2021,
arXiv:2101.09258, section 4.3), for every process: with `f = (log alpha)'` and `g^2 = (sigma^2)' - 2 f sigma^2`,

    -lambda' = 2 (sigma' / sigma - f) = ((sigma^2)' - 2 f sigma^2) / sigma^2 = g^2 / sigma^2

so the density proportional to `g^2 / sigma^2` is the uniform one in lambda, its normaliser is a difference of two
log-SNRs, and `w / p` is constant.

Discrete ladders have a fourth: each of the N rungs with probability 1/N. Those of `t / T` alone are in `sde.fractions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from score_sde.common.errors import UserError, choose
from score_sde.common.noise import BatchNoise
from score_sde.sde import SDE, Ladder
from score_sde.sde.fractions import LogitNormal, Mode, shifted
from score_sde.sde.marginals import on_host


class TimeDistribution(Protocol):
    """A distribution of times, given by its quantile function and its density (or, on a ladder, probability)."""

    def quantile(self, u: Tensor) -> Tensor:
        """Return the time at each `u` `(B,)` in [0, 1); float64, shape of `u`."""

    def density(self, t: Tensor) -> Tensor:
        """Return the density at times `t` `(B,)` within the distribution's range; float64, shape of `t`."""


class UniformTime:
    """The distribution that is uniform in t on `[t_min, T]`."""

    def __init__(self, sde: SDE, t_min: float) -> None:
        self.t_min, self.length = t_min, sde.T - t_min

    def quantile(self, u: Tensor) -> Tensor:
        return self.t_min + self.length * on_host(u)

    def density(self, t: Tensor) -> Tensor:
        return torch.full_like(on_host(t), 1 / self.length)


class UniformLogSNR:
    """The distribution that is uniform in log-SNR between its values at `t_min` and `T`: importance sampling for the
    likelihood weighting."""

    def __init__(self, sde: SDE, t_min: float) -> None:
        self.sde, self.t_min = sde, t_min
        self.high, self.low = log_snr_range(sde, t_min)

    def quantile(self, u: Tensor) -> Tensor:
        return self.sde.time_at_log_snr(self.low + (self.high - self.low) * on_host(u)).clamp(min=self.t_min)

    def density(self, t: Tensor) -> Tensor:
        return log_snr_rate(self.sde, t) / (self.high - self.low)


class LogNormal:
    """EDM's distribution: `log rho ~ N(mean, std^2)`, `rho = sigma / alpha`, cut off at the values of `t_min` and `T`.

    The published `mean, std` are -1.2, 1.2, for data with standard deviation 0.5.
    """

    def __init__(self, sde: SDE, t_min: float, mean: float, std: float) -> None:
        self.sde, self.t_min, self.mean, self.std = sde, t_min, mean, std
        high, low = log_snr_range(sde, t_min)
        ends = (torch.tensor([-high / 2, -low / 2], dtype=torch.float64) - mean) / std
        self.cdf_low, self.cdf_high = torch.special.ndtr(ends).tolist()

    def quantile(self, u: Tensor) -> Tensor:
        normal = torch.special.ndtri(self.cdf_low + (self.cdf_high - self.cdf_low) * on_host(u))
        return self.sde.time_at_log_snr(-2 * (self.mean + self.std * normal)).clamp(min=self.t_min)

    def density(self, t: Tensor) -> Tensor:
        z = (-self.sde.log_snr(t) / 2 - self.mean) / self.std
        normal = torch.exp(-0.5 * z**2) / (self.std * math.sqrt(2 * math.pi) * (self.cdf_high - self.cdf_low))
        return normal * log_snr_rate(self.sde, t) / 2


class UniformRung:
    """The distribution in which each rung of a ladder has the same probability."""

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder

    def quantile(self, u: Tensor) -> Tensor:
        return self.ladder.time((on_host(u) * self.ladder.num_rungs).floor().clamp(max=self.ladder.num_rungs - 1))

    def density(self, t: Tensor) -> Tensor:
        return torch.full_like(on_host(t), 1 / self.ladder.num_rungs)


class Shifted:
    """The distribution of times that are moved, as fractions of `T`, by `u -> a u / (1 + (a - 1) u)`.

    Args:
        base: makes the distribution of the times before, from its first time.
        sde: the forward process.
        t_min: the first time after.
        shift: `a`; above 1 for more noise.
    """

    def __init__(self, base: Callable[[float], TimeDistribution], sde: SDE, t_min: float, shift: float) -> None:
        if not shift > 0:
            raise UserError(f"times are shifted by a number above 0, not {shift:g}")
        self.T, self.t_min, self.shift = sde.T, t_min, shift
        self.base = base(sde.T * float(shifted(torch.tensor(t_min / sde.T, dtype=torch.float64), 1 / shift)))

    def quantile(self, u: Tensor) -> Tensor:
        return (self.T * shifted(self.base.quantile(u) / self.T, self.shift)).clamp(min=self.t_min)

    def density(self, t: Tensor) -> Tensor:
        u = on_host(t) / self.T
        before = shifted(u, 1 / self.shift)
        # The ratio of the two fractions' slopes.
        rate = (1 / self.shift) / (1 + (1 / self.shift - 1) * u) ** 2
        return self.base.density(self.T * before) * rate


class TimeShape(NamedTuple):
    """The numbers that distributions of times have, each of which belongs to one of them.

    Attributes:
        edm_mean: mean of `log(sigma / alpha)`, for "edm".
        edm_std: its standard deviation.
        logit_mean: mean of the logit of `t / T`, for "logit_normal".
        logit_std: its standard deviation.
        mode_scale: for "mode"; 1.29 is Esser et al.'s.
        shift: of all: see `Shifted`; 1 for none.
    """

    edm_mean: float = -1.2
    edm_std: float = 1.2
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    shift: float = 1.0


TIME_DISTRIBUTIONS: dict[str, Callable[[SDE, float, TimeShape], TimeDistribution]] = {
    "uniform": lambda sde, t_min, shape: UniformTime(sde, t_min),
    "log_snr": lambda sde, t_min, shape: UniformLogSNR(sde, t_min),
    "edm": lambda sde, t_min, shape: LogNormal(sde, t_min, shape.edm_mean, shape.edm_std),
    "logit_normal": lambda sde, t_min, shape: LogitNormal(sde, t_min, shape.logit_mean, shape.logit_std),
    "mode": lambda sde, t_min, shape: Mode(sde, t_min, shape.mode_scale),
}


def get_time_distribution(name: str, sde: SDE, t_min: float = 1e-5, shape: TimeShape | None = None) -> TimeDistribution:
    """Return a distribution: "uniform" (in t), "log_snr" (uniform in it), "edm" (log-normal), "logit_normal" or "mode".

    Args:
        name: of the distribution.
        sde: the forward process.
        t_min: smallest time.
        shape: its numbers; the published ones if left out.

    Raises:
        UserError: there is no such distribution, or a number is out of range.
    """
    make, shape = choose("distribution of times", name, TIME_DISTRIBUTIONS), shape or TimeShape()
    if shape.shift == 1:
        return make(sde, t_min, shape)
    return Shifted(lambda first: make(sde, first, shape), sde, t_min, shape.shift)


def log_snr_range(sde: SDE, t_min: float) -> tuple[float, float]:
    """Return the log-SNR at `t_min` and at `t_max`, the highest and the lowest.

    Raises:
        UserError: `t_min` is not before `T`, or the data there have no noise at all.
    """
    high, low = sde.log_snr(torch.tensor([t_min, sde.t_max], dtype=torch.float64)).tolist()
    if not (0 <= t_min < sde.t_max and math.isfinite(high)):
        raise UserError(f"t_min={t_min} must lie between 0 and {sde.T}, where there is some noise")
    return high, low


def log_snr_rate(sde: SDE, t: Tensor) -> Tensor:
    """Return `|d log_snr / dt| = g^2 / sigma^2`; float64, shape of `t`."""
    with torch.enable_grad():
        t = on_host(t.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(sde.log_snr(t).sum(), t)
    return -slope


def sample_times(times: TimeDistribution, noise: BatchNoise, stratified: bool = True) -> Tensor:
    """Draw a time for each row of a batch; float64, on the CPU, `(B,)`.

    Stratified, the quantiles are one from each of as many equal intervals, in random order: each time still has its
    distribution, and the mean over the batch a smaller variance.
    """
    u = noise.uniform(torch.empty(1, dtype=torch.float64))
    if stratified:
        u = (noise.permutation() + u) / noise.count
    return times.quantile(u)
