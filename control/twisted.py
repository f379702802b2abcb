r"""The twisted diffusion sampler, TDS: sequential Monte Carlo for `p(x_0 | y)`, `y = A(x_0) + s n` (Wu et al. 2023,
arXiv:2306.17775, algorithm 1).

A model of `p(x_0)` makes a chain of Gaussian steps from noise to data, ancestral ones (`eta = 1`) or DDIM's (Song et
al. 2021, arXiv:2010.02502, equation 12). From `x` at the time `t` to the time `u < t`, with `D = E[x_0 | x_t = x]`,

    p(x_u | x) = N(m, v I),    v = eta^2 sigma_u^2 (1 - rho_u^2 / rho_t^2),
                               m = alpha_u D + sqrt(sigma_u^2 - v) (x - alpha_t D) / sigma_t

and the chain ends with `D` at the last time. Each time has a *twist*, a guess at `p(y | x_t)`,

    psi_t(x) = exp(-1/2 (y - A D)^T (s^2 I + r_t^2 A A^T)^{-1} (y - A D)),
    r_t^2    = c^2 sigma^2 / (c^2 alpha^2 + sigma^2)

as if `x_0` were `N(D, r_t^2 I)`: that of ΠGDM (`control.posterior`); of a nonlinear `A`, with its derivative at `D`. At
the last time `r_t` is 0, and the twist is the likelihood itself, with its constant. Particles are proposed by the
step of the twisted score, from `q(x_u | x) = N(m + (dm/dD) delta, v I)`, `delta = sigma^2 / alpha ∇ log psi_t`, and
weighted by

    w_u = w_t p(x_u | x) psi_u(x_u) / [q(x_u | x) psi_t(x)].

Whatever the twists, these weights are exact for the discretised chain: as particles grow, they become draws from its
`x_0` given `y`, and their mean weight is an unbiased estimate of its evidence `p(y)`. What is left is the error of the
chain, which falls with the length of its steps. Where the effective number of a problem's particles, `1 / sum w^2`, has
fallen below a share of them, they are resampled, systematically (Kitagawa 1996).

Each problem, one row of the observation, has particles and a seed of its own, and they never meet those of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from score_sde.common.arguments import checked, checked_class
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.common.score import check_score
from score_sde.control.base import tweedie_factor
from score_sde.control.operators import linearised
from score_sde.control.posterior import Observation
from score_sde.models.wrapper import rows_of
from score_sde.sde import SDE, Marginals
from score_sde.sde.marginals import on_host
from score_sde.solvers import Model
from score_sde.solvers.base import sample_noise
from score_sde.solvers.density.divergence import value_and_pull_back
from score_sde.solvers.grids import Grid, time_grid
from score_sde.solvers.options import MOST_STEPS, check_between, check_positive


class Particles(NamedTuple):
    """The particles of each problem stand for its posterior.

    Attributes:
        x: particles `(B, K, *dims)`, at `sigma = 0`.
        weights: their weights, which sum to 1 in each problem; `(B, K)`, float64, on the CPU.
        log_evidence: an estimate of `log p(y)`, in nats; `(B,)`, float64, on the CPU.
        nfe: number of batched network calls.
    """

    x: Tensor
    weights: Tensor
    log_evidence: Tensor
    nfe: int

    @property
    def mean(self) -> Tensor:
        """The posterior mean is that of the weighted particles, `(B, *dims)`."""
        weights = self.weights.to(self.x.device, self.x.dtype)
        return (self.x * weights.reshape(*weights.shape, *(1,) * (self.x.ndim - 2))).sum(1)

    @property
    def effective_size(self) -> Tensor:
        """So many equally weighted particles would say as much, `(B,)`."""
        return 1 / (self.weights**2).sum(1)


class _Twisted(NamedTuple):
    """What is known of particles `(N, *dims)`: their denoised means, its change by the twist, and the twist."""

    mean: Tensor
    delta: Tensor
    log_twist: Tensor


@checked_class
@dataclass(frozen=True)
class TDS:
    """The twisted diffusion sampler is called with a model and what was observed.

    Args:
        num_steps: number of times, and of batched network calls.
        num_particles: particles `K` of each problem; all are put to the network at once.
        eta: amount of noise; 1 is ancestral sampling.
        resample_below: particles are resampled where their effective number is below this share of them.
        data_std: `c` of the twist, the data's standard deviation per dimension, in model units.
        grid: name of a time grid, or the times.
        t_min: last time; the process's own if left out.

    Raises:
        UserError: an option is out of range or unknown.
    """

    num_steps: int = 100
    num_particles: int = 64
    eta: float = 1.0
    resample_below: float = 0.5
    data_std: float = 1.0
    grid: Grid = "log_angle"
    t_min: float | None = None

    def __post_init__(self) -> None:
        check_between("num_steps", self.num_steps, 1, MOST_STEPS)
        check_between("num_particles", self.num_particles, 1, MOST_STEPS)
        check_positive("eta", self.eta)
        check_between("eta", self.eta, 0, 1)
        check_between("resample_below", self.resample_below, 0, 1)
        check_positive("data_std", self.data_std)

    @torch.no_grad()
    @checked
    def __call__(
        self,
        model: Model,
        observation: Observation,
        shape: Sequence[int],
        *,
        seeds: Iterable[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Particles:
        """Sample what was observed.

        Args:
            model: a model of `p(x_0)`; if it is bound to conditions, to one a problem.
            observation: what was observed of each problem, `(B, *observed)`, with some noise; the dtype and device of
                its values are those of the particles.
            shape: the shape `dims` of an example.
            seeds: one a problem: its particles depend on its own seed alone.
            generator: gives the seeds where they are left out; torch's own if it is left out, too.

        Raises:
            UserError: the observation has no noise, the seeds are not as many as its rows, or weights are not finite.
        """
        if not observation.noise_std > 0:
            raise UserError("TDS weighs by the likelihood of the observation's noise: give some, or use ΠGDM or MMPS")
        check_score(model, "TDS")
        y = observation.y if observation.y.is_floating_point() else observation.y.to(torch.get_default_dtype())
        if not shape:
            raise UserError("an example has a shape of at least one size, such as (2,) or (1, 8, 8), not ()")
        count, size = len(y), self.num_particles
        noise = sample_noise(y, seeds, generator)
        choice = SampleNoise(noise.seeds, "choice")
        of_particle = torch.arange(count).repeat_interleave(size)
        model, observation = rows_of(model, of_particle), observation.rows(of_particle.to(y.device))
        sde = model.sde
        ends = sde.at(time_grid(sde, self.grid, self.num_steps, self.t_min))

        start = sde.prior_sample((count, size, *shape), seeds=noise.seeds, dtype=y.dtype, device=y.device)
        x = start.flatten(0, 1)
        here = self._look(model, observation, x, ends, 0)
        log_weights, log_evidence = here.log_twist.reshape(count, size), torch.zeros(count, dtype=torch.float64)
        for k in range(len(ends) - 1):
            log_weights, gained, chosen = _resample(log_weights, self.resample_below, choice)
            log_evidence = log_evidence + gained
            if chosen is not None:
                x, here = x[chosen.to(x.device)], _Twisted(*(part[chosen.to(part.device)] for part in here))
            x, log_ratio = self._step(sde, ends[k], ends[k + 1], x, here, noise)
            before, here = here, self._look(model, observation, x, ends, k + 1)
            log_weights = log_weights + (log_ratio + here.log_twist - before.log_twist).reshape(count, size)
        total = torch.logsumexp(log_weights, 1)
        log_evidence = log_evidence + total - math.log(size)
        if not bool(log_evidence.isfinite().all()):
            raise UserError("the particles' weights are not finite: take more steps, or more noise of the observation")
        weights = torch.softmax(log_weights, 1)
        return Particles(here.mean.unflatten(0, (count, size)), weights, log_evidence, len(ends))

    def _look(self, model: Model, observation: Observation, x: Tensor, ends: Marginals, k: int) -> _Twisted:
        """Ask the model about particles `x` `(N, *dims)` at time `k`."""
        t, last = ends.t[k], k == len(ends) - 1
        mean, pull_back = value_and_pull_back(lambda x: model.denoise(x, t), x)
        observed, operator = linearised(observation.operator, mean)
        residual = observation.residual(observed)
        variance, signal = ends.sigma[k] ** 2, (self.data_std * ends.alpha[k]) ** 2
        spread = torch.zeros_like(variance) if last else self.data_std**2 * variance / (signal + variance)
        diagonal = torch.full_like(spread, observation.noise_std**2)
        weighed = operator.solve(residual, x, diagonal, spread)
        log_twist = on_host(-0.5 * (residual * weighed).flatten(1).sum(1))
        if last:
            constant = operator.count(residual) * (math.log(observation.noise_std) + 0.5 * math.log(2 * math.pi))
            return _Twisted(mean, torch.zeros_like(mean), log_twist - constant)
        delta = tweedie_factor(model.sde, t, x) * pull_back(operator.transpose(weighed, x))[0]
        return _Twisted(mean, delta, log_twist)

    def _step(
        self, sde: SDE, start: Marginals, end: Marginals, x: Tensor, here: _Twisted, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """Propose particles at the next time; return them and `log p - log q` of each, `(N,)`."""
        variance = -((self.eta * end.sigma) ** 2) * torch.expm1(2 * (start.lam - end.lam))
        of_x = torch.sqrt(end.sigma**2 - variance) / start.sigma
        of_mean = end.alpha - of_x * start.alpha
        std, of_x, of_mean = (sde.expand(value, x) for value in (variance.sqrt(), of_x, of_mean))
        z = noise.normal(x.unflatten(0, (len(noise.seeds), -1))).flatten(0, 1)
        # Of the standard normal variable: x_u = m + std (z + moved).
        moved = of_mean * here.delta / std
        log_ratio = -(z * moved + 0.5 * moved**2).flatten(1).sum(1)
        return of_x * x + of_mean * here.mean + std * (z + moved), on_host(log_ratio)


def _resample(log_weights: Tensor, below: float, choice: SampleNoise) -> tuple[Tensor, Tensor, Tensor | None]:
    """Resample the particles of problems whose effective number is below a share of them.

    Args:
        log_weights: logarithms of the weights `(B, K)`.
        below: the share.
        choice: gives one uniform number a problem.

    Returns:
        The new logarithms `(B, K)`; what they are less by on average, that of the mean weight where particles were
        resampled and else 0, `(B,)`; which particles were chosen, of all `B K`, `(B K,)`, None if none had to be.
    """
    count, size = log_weights.shape
    weights = torch.softmax(log_weights, 1)
    few = 1 / (weights**2).sum(1) < below * size
    gained = torch.where(few, torch.logsumexp(log_weights, 1) - math.log(size), 0.0)
    # A number is drawn whether it is used or not, so that a problem's numbers depend on nothing else.
    offsets = choice.uniform(log_weights[:, :1])
    if not bool(few.any()):
        return log_weights, gained, None
    places = (offsets + torch.arange(size, dtype=torch.float64)) / size
    picked = torch.searchsorted(weights.cumsum(1), places).clamp(max=size - 1)
    kept = torch.where(few[:, None], picked, torch.arange(size))
    rows = (kept + size * torch.arange(count)[:, None]).flatten()
    return torch.where(few[:, None], 0.0, log_weights), gained, rows
