r"""The variance of `x_0 | x_t` of a model that was not trained for one (Bao et al. 2022, arXiv:2201.06503, 2206.07309).

It is there in two ways, each as one number for all of an example (the mean), or for each number of it.

From the model's derivative (`JacobianVariance`), by Tweedie's second formula

    Var[x_0 | x_t] = (sigma^2 / alpha) diag(dD / dx_t),      on average  (sigma^2 / alpha) tr(dD / dx_t) / d

with the diagonal taken exactly, by `d` products with the derivative, or estimated by few (Hutchinson): `v * (J^T v)`
for random signs `v`, whose mean is the diagonal, and whose sum is the trace. The signs are the same for all states, so
that an example's variance depends on nothing but its state. It is exact where the score is, and a model's own opinion
elsewhere.

From its errors on held-out data (`MeasuredVariance`), as a function of time alone

    Var(t) = E (x_0 - D(x_t, t))^2

which is the best there is of those that do not depend on the state, whatever the score's own errors: with an exact
score it is the mean of the first over all states, so that the two agree on average. It is taken for no more than the
variance of the data: where the model answers worse than their mean would, as by noise prediction where next to nothing
of them is left, the answer is what has to be mended (clipped), and not the noise.

Each is a wrapper, whose steps solvers and bounds then give these variances (`steps_by_posterior`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.float64 import in_float64
from score_sde.common.gaussian import Gaussian
from score_sde.common.noise import SampleNoise
from score_sde.common.posterior import Posterior
from score_sde.common.score import check_score
from score_sde.models.inputs import states_and_times
from score_sde.models.wrapper import ModelWrapper
from score_sde.sde.times import log_snr_range

# Directions of the exact diagonal that are followed at once.
_CHUNK = 64
_MOST_TIMES = 10_000
# No variance of one number that was measured is smaller than this part of their mean at the same time.
_SMALLEST_PART = 1e-3


class KnownVariance(ModelWrapper):
    """`model` has a posterior, as a `GaussianMixture` does, and steps are given its variance.

    Raises:
        UserError: the model is a flow and has no score.
    """

    steps_by_posterior = True

    def __init__(self, model: Any) -> None:
        check_score(model, "the variance of a step")
        super().__init__(model)

    @property
    def gaussian(self) -> Gaussian | None:
        """The Gaussian that the data look like is the model's, if it knows one."""
        return getattr(self.model, "gaussian", None)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x`; each of the shape of `x`."""
        posterior = getattr(self.model, "posterior", None)
        if posterior is None:
            raise UserError(f"{type(self.model).__name__} has no posterior: take JacobianVariance, or measure_variance")
        return posterior(x, t)


class FixedVariance(KnownVariance):
    """`model`, with the variance of `x_0 | x_t` that data `N(m, s^2 I)` have: `s^2 sigma^2 / (s^2 alpha^2 + sigma^2)`.

    Those of DDPM are `s = 0`, with which a step from `t` to `s` has beta-tilde, and, where `alpha^2 + sigma^2 = 1`,
    `s = 1`, with which it has beta.

    Args:
        model: any model.
        data_std: `s`.

    Raises:
        UserError: `s` is negative, or not finite.
    """

    @checked
    def __init__(self, model: Any, data_std: float = 0.0) -> None:
        super().__init__(model)
        if not 0 <= data_std < math.inf:
            raise UserError(f"data_std must be finite and not negative, not {data_std:g}")
        self.data_std = data_std

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x`; each of the shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        here, size = self.sde.at(t), self.data_std**2
        variance = size * here.sigma**2 / (size * here.alpha**2 + here.sigma**2)
        return Posterior(self.model.denoise(x, t), self.sde.expand(variance, x).expand_as(x))


class JacobianVariance(KnownVariance):
    """`model`, with the variance that its derivative says.

    Args:
        model: any model; its answer for an example depends on no other.
        num_probes: products with the derivative a call; None for as many as an example has numbers, and no error.
        each: whether each number of an example has its own variance, or all have their mean.
        seed: seed of the probes.

    Raises:
        UserError: `num_probes` is not above 0, or the seed negative.
    """

    @checked
    def __init__(self, model: Any, num_probes: int | None = 1, each: bool = False, seed: int = 0) -> None:
        super().__init__(model)
        if num_probes is not None and num_probes < 1:
            raise UserError(f"num_probes must be at least 1, not {num_probes}")
        (seed,) = SampleNoise([seed], "probe").seeds
        self.num_probes, self.each, self.seed = num_probes, each, seed

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x`, by one call and the products; each of the shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        found: Any = torch.func.vjp(lambda state: self.model.denoise(state, t), x)
        mean, pull_back = found

        def products(probe: Tensor) -> Tensor:
            return pull_back(probe.expand_as(x))[0] * probe

        diagonal = torch.vmap(products, chunk_size=_CHUNK)(self._probes(x))
        diagonal = diagonal.sum(0) if self.num_probes is None else diagonal.mean(0)
        if not self.each:
            diagonal = diagonal.flatten(1).mean(1).reshape(-1, *(1,) * (x.ndim - 1)).expand_as(x)
        here = self.sde.at(t)
        return Posterior(mean, self.sde.expand(here.sigma**2 / here.alpha, x) * diagonal)

    def _probes(self, x: Tensor) -> Tensor:
        """Return directions `(P, *dims)`: all axes, or random signs."""
        dims = x.shape[1:]
        if self.num_probes is None:
            return torch.eye(dims.numel(), dtype=x.dtype, device=x.device).reshape(-1, *dims)
        seeds = range(self.seed, self.seed + self.num_probes)
        return SampleNoise(seeds, "probe").rademacher(x.new_empty(self.num_probes, *dims))


class MeasuredVariance(KnownVariance):
    """`model`, with the variance that its errors on data had; made by `measure_variance`.

    Args:
        model: any model.
        log_snr: where it was measured, rising, `(N,)`.
        shares: the variance there in units of `sigma^2 / alpha^2`, `(N,)` or `(N, *dims)`; between, its logarithm is
            interpolated in log-SNR.
    """

    def __init__(self, model: Any, log_snr: Tensor, shares: Tensor) -> None:
        super().__init__(model)
        self.log_snr, self.shares = log_snr.cpu().double(), shares.cpu().double()

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x`; each of the shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        # Above where it was measured, next to nothing is left of the data, and the variance is what it is there.
        log_snr = self.sde.at(t).log_snr.reshape(-1).clamp(min=float(self.log_snr[0]))
        right = torch.searchsorted(self.log_snr, log_snr).clamp(1, len(self.log_snr) - 1)
        place = (log_snr - self.log_snr[right - 1]) / (self.log_snr[right] - self.log_snr[right - 1])
        place = place.clamp(0, 1).reshape(-1, *(1,) * (self.shares.ndim - 1))
        log_share = torch.lerp(self.shares.log()[right - 1], self.shares.log()[right], place)
        log_variance = log_share - log_snr.reshape(-1, *(1,) * (self.shares.ndim - 1))
        variance = log_variance.exp().reshape(len(log_snr), *(self.shares.shape[1:] or (1,) * (x.ndim - 1)))
        return Posterior(self.model.denoise(x, t), variance.to(x.device, x.dtype).expand_as(x))


@torch.no_grad()
@checked
def measure_variance(
    model: Any, x_0: Tensor, *, num_times: int = 64, each: bool = False, batch_size: int = 256, seed: int = 0
) -> MeasuredVariance:
    """Measure a model's errors on data that it was not trained on, at times uniform in log-SNR.

    Args:
        model: the model, which gives the denoised mean.
        x_0: the data `(N, *dims)`, in model units.
        num_times: number of times, at each of which all data are noised once.
        each: whether each number of an example has its own variance, or all have their mean.
        batch_size: examples that the model is asked about at once.
        seed: seed of the noise.

    Raises:
        UserError: there are no data, or a number is out of range.
    """
    if len(x_0) == 0 or not 2 <= num_times <= _MOST_TIMES or batch_size < 1:
        raise UserError(
            f"a variance is measured on some data, at 2 to {_MOST_TIMES} times, not on {len(x_0)} examples at "
            f"{num_times} times, {batch_size} at once"
        )
    sde = model.sde
    high, low = log_snr_range(sde, sde.t_min)
    log_snr = torch.linspace(low, high, num_times, dtype=torch.float64)
    times = sde.time_at_log_snr(log_snr).clamp(sde.t_min, sde.t_max)
    noise = SampleNoise(range(seed, seed + len(x_0)), "bound")
    spread = in_float64(x_0).var(0, correction=0).cpu() if len(x_0) > 1 else torch.full(x_0.shape[1:], math.inf)
    shares = []
    for t, snr in zip(times, sde.at(times).log_snr.exp(), strict=True):
        eps = noise.normal(x_0)
        total = torch.zeros(x_0.shape[1:], dtype=torch.float64)
        for first in range(0, len(x_0), batch_size):
            part = slice(first, first + batch_size)
            error = in_float64(model.denoise(sde.perturb(x_0[part], eps[part], t), t)) - in_float64(x_0[part])
            total += error.square().sum(0).cpu()
        share = snr * torch.minimum(total / len(x_0), spread)
        shares.append(share.clamp(min=_SMALLEST_PART * float(share.mean())) if each else share.mean())
    return MeasuredVariance(model, sde.at(times).log_snr, torch.stack(shares).clamp(min=torch.finfo().tiny))
