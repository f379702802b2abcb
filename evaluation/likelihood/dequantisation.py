r"""Dequantisation: a density for data that are levels.

Levels `k` have probabilities `P(k)`; a model has a density `p(x)` at time `t_min`. With a distribution `q(x | k)` of
noisy levels, on regions that do not overlap, the model's `P(k)` is the integral of `p` over the region of `k`, and

    log P(k) >= E log 1/K sum_j p(x_j) / q(x_j | k)      K draws: Burda et al. 2016, arXiv:1509.00519
             >= E[log p(x) - log q(x | k)]               one: Theis et al. 2016, arXiv:1511.01844

The first grows tight as K grows. The choices of `q`:

    uniform            on the bin `[low + w k, low + w (k + 1))`: for models of dequantised data
    truncated normal   `x = alpha c_k + sigma u`, `u` standard normal within `±tau`, at the time at which neighbouring
                       levels are `2 tau sigma / alpha` apart: for models of the levels themselves, at `c_k`, whose
                       `p_t` is just this (Zheng et al. 2023, arXiv:2305.03935, section 3.2)
    variational        learned, for models of dequantised data whose density within a bin is not uniform

A dequantiser draws `x` and says `log q`. Numbers `y` without levels have a density, `log p(y) = log p(x) - log q` with
`q = |d y / d x|`. Bits per dimension are

    -log2 P(k) / d <= (log q - log p) / (d log 2).

With K draws the average inside the logarithm needs the densities themselves: an unbiased estimate of `log p`, as
Hutchinson's, makes `E log mean exp` larger, and the result might be better than the truth. So it is used with exact
divergences only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from score_sde.common.noise import SampleNoise
from score_sde.data.units import Bins, Points, Standardised, as_numbers
from score_sde.sde import SDE
from score_sde.solvers.options import check_positive


class Dequantised(NamedTuple):
    """A dequantiser gives back levels with noise, and the noise's density.

    Attributes:
        x: levels with noise, in model units, at the dequantiser's `t_min`, shape of the levels.
        log_q: log-density of `x` given the levels, `(B,)`, in nats; float64.
    """

    x: Tensor
    log_q: Tensor


class Dequantiser(Protocol):
    """A dequantiser draws noisy levels and knows their density."""

    @property
    def t_min(self) -> float | None:
        """The density is to be evaluated at this time; None if any small one will do."""

    def sample(self, levels: Tensor, noise: SampleNoise) -> Dequantised:
        """Draw levels `(B, *dims)` with the next noise."""


class WithoutLevels:
    """Numbers without levels have a density of their own, and need no noise: `log q` has but their units' scale.

    Args:
        units: the units that models see the numbers in.
    """

    t_min = None

    def __init__(self, units: Standardised) -> None:
        self.units = units

    def sample(self, levels: Tensor, noise: SampleNoise) -> Dequantised:
        """Return numbers `(B, *dims)` in model units, and `-log |d x / d y|`; no noise is drawn."""
        return Dequantised(self.units.encode(levels), -self.units.log_scales(levels))


class UniformDequantiser:
    """Uniform noise fills the bins.

    Args:
        units: the bins of the levels.
    """

    t_min = None

    def __init__(self, units: Bins) -> None:
        self.units = units

    def sample(self, levels: Tensor, noise: SampleNoise) -> Dequantised:
        """Draw noisy levels `(B, *dims)`."""
        log_q = torch.full((len(levels),), -self.units.log_scale(levels.shape[1:]), dtype=torch.float64)
        return Dequantised(self.units.encode(levels, noise), log_q)


class TruncatedNormalDequantiser:
    """Normal noise, as the forward process adds it, is cut off half-way between levels.

    Args:
        sde: the forward process.
        units: the places of the levels.
        cutoff: number of deviations in half the spacing, `tau`.

    Attributes:
        t_min: the time at which that is so, or the nearest to it that the process has.

    Raises:
        UserError: `cutoff` is not positive.
    """

    def __init__(self, sde: SDE, units: Bins | Points, cutoff: float = 3.0) -> None:
        check_positive("cutoff", cutoff)
        self.place, self.spacing = units.place, units.spacing
        self.t_min = float(sde.time_at_log_snr(torch.tensor(2 * math.log(2 * cutoff / units.spacing))))
        time = torch.tensor(self.t_min, dtype=torch.float64)
        self.alpha, self.sigma = float(sde.alpha(time)), float(sde.sigma(time))

    def sample(self, levels: Tensor, noise: SampleNoise) -> Dequantised:
        """Draw noisy levels `(B, *dims)`."""
        levels = as_numbers(levels)
        cutoff = self.spacing * self.alpha / (2 * self.sigma)
        inside = math.erf(cutoff / math.sqrt(2))
        u = math.sqrt(2) * torch.erfinv(inside * (2 * noise.uniform(levels).double() - 1))
        log_density = -0.5 * u**2 - math.log(math.sqrt(2 * math.pi) * inside * self.sigma)
        x = self.alpha * (self.place + self.spacing * levels) + self.sigma * u
        return Dequantised(x.to(levels.dtype), log_density.flatten(1).sum(1))


class VariationalDequantiser:
    """The distribution of the noise was learned (Ho et al. 2019, arXiv:1902.00275).

    Args:
        flow: a module that takes levels `(B, *dims)` and uniform noise, and returns `x` and `log q` as above:
            `models.dequantisation_flow.DequantisationFlow`.
    """

    t_min = None

    def __init__(self, flow: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.flow = flow

    @torch.no_grad()
    def sample(self, levels: Tensor, noise: SampleNoise) -> Dequantised:
        """Draw noisy levels `(B, *dims)`."""
        return Dequantised(*self.flow(levels, noise.uniform(as_numbers(levels))))


def density_time(dequantiser: Dequantiser, t_min: float | None) -> float | None:
    """Return the time of the density: the dequantiser's, if it has one, or else `t_min`."""
    return t_min if dequantiser.t_min is None else dequantiser.t_min


def bound_of_draws(log_weights: Tensor) -> Tensor:
    """Return `log 1/K sum_j exp(log_weights_j)` `(B,)` of `log p - log q` `(B, K)`: a bound on `log P(k)`."""
    return torch.logsumexp(log_weights, dim=1) - math.log(log_weights.shape[1])
