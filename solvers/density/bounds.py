"""Variational bounds on the log-likelihood, term by term.

Noising and its reversal are a deep latent-variable model, whose evidence lower bound needs no ODE (Ho et al. 2020,
arXiv:2006.11239, equation 5). With times `t_min = t_1 < … < t_N = T`, prior `pi` and `lambda = log_snr`,

    -log p(x_0) <= L_T + sum_{i=2}^N L_{i-1} + L_0

    L_T      KL( q(x_T | x_0) || pi )                                                          "prior"
    L_{i-1}  KL( q(x_s | x_t, x_0) || q(x_s | x_t, D(x_t)) ),    s = t_{i-1}, t = t_i          "diffusion"
             = (exp(lambda_s - lambda_t) - 1) / 2 E||eps - eps_hat||^2
    L_0      -E log p(x_0 | x_{t_1})                                                           "reconstruction"

(the variance of `p(x_s | x_t)` is that of `q(x_s | x_t, x_0)`: DDPM's smaller choice.) A model that knows the variance
`V` of `x_0 | x_t` has more to say (`solvers.variances`): with `w = exp(lambda_s - lambda_t) - 1`, and `r = 1 + w V
snr_t` the variance of `p` in units of that of `q`, each number its own,

    L_{i-1}  1/2 E sum [ log r + (1 + w (eps - eps_hat)^2) / r - 1 ]

which is less by `O(w^2)` where `V` is right, and the same in the limit. As N grows the sum becomes an
integral (Kingma et al. 2021, arXiv:2107.00630, equation 15)

    1/2 ∫ E||eps - eps_hat||^2 dlambda        from lambda_T to lambda_{t_min}

estimated at `num_calls` log-SNRs, one at random in each of as many equal intervals.

Without `x_0` and its reconstruction, the density at `t_min` itself is bounded by (Song et al. 2021, arXiv:2101.09258,
theorem 3; `g^2 dt = sigma^2 dlambda`)

    -log p_{t_min}(x) <= 1/2 ∫ E[ ||eps_hat||^2 + 2 sigma^2 div score ] dlambda - E log pi(x_T) - d log(alpha_T / alpha)

with `x_t` noised from `x` at `t_min`, and the divergence by Hutchinson's estimate.

All bound the density of the *reverse SDE*. Where the score is exact, that is the density of the ODE, and the last two
are equalities up to the prior's mismatch; for a trained network the two densities differ, and a bound may lie on either
side of the ODE's likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr

from score_sde.common.arguments import checked
from score_sde.common.float64 import in_float64
from score_sde.common.noise import SampleNoise
from score_sde.common.posterior import Posterior
from score_sde.common.score import check_score
from score_sde.sde import SDE
from score_sde.sde.marginals import on_host
from score_sde.solvers.base import Model, States, sample_noise
from score_sde.solvers.density.divergence import hutchinson_divergence
from score_sde.solvers.grids import Grid, time_grid
from score_sde.solvers.options import MOST_STEPS, check_at_least, check_between
from score_sde.solvers.process import last_time, log_snr_range
from score_sde.solvers.variances import LEAST_SHARE, posterior_of

# Called with `x_t` and `D(x_t)`, `(B, *dims)`, and `alpha` and `sigma` there; returns nats, `(B,)`.
Decoder = Callable[[Tensor, Tensor, float, float], Tensor]


def gaussian_decoder(x_0: Tensor) -> Decoder:
    """Return the decoder for data `x_0` with a density: `N(D(x_t), (sigma / alpha)^2 I)`.

    (Song et al. 2021, arXiv:2101.09258.)
    """

    def decoder(x_t: Tensor, denoised: Tensor, alpha: float, sigma: float) -> Tensor:
        deviation = in_float64((x_0 - denoised) * (alpha / sigma)).flatten(1)
        return (0.5 * deviation**2 + 0.5 * math.log(2 * math.pi) + math.log(sigma / alpha)).sum(1)

    return decoder


def discretised_gaussian_decoder(levels: Tensor, low: float, spacing: float, num_levels: int) -> Decoder:
    """Return the decoder for levels `(B, *dims)` at `low + spacing k`: the mass of `N(D(x_t), (sigma / alpha)^2)` that
    is nearest to each.

    Those of the first and of the last reach to infinity (Ho et al. 2020, arXiv:2006.11239, equation 13).
    """

    def decoder(x_t: Tensor, denoised: Tensor, alpha: float, sigma: float) -> Tensor:
        mean = in_float64(denoised)
        lower = (low + spacing * (levels.to(mean) - 0.5) - mean) * (alpha / sigma)
        upper = lower + spacing * alpha / sigma
        lower = torch.where(levels.to(mean.device) == 0, -math.inf, lower)
        upper = torch.where(levels.to(mean.device) == num_levels - 1, math.inf, upper)
        # Of two tails the one that does not cancel.
        flip = lower > 0
        lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
        log_mass = log_ndtr(upper) + torch.log1p(-torch.exp(log_ndtr(lower) - log_ndtr(upper)))
        return -log_mass.flatten(1).sum(1)

    return decoder


def posterior_decoder(levels: Tensor, low: float, spacing: float, num_levels: int) -> Decoder:
    """Return the decoder for levels `(B, *dims)` at `low + spacing k`: `P(k | x_t)` from each number by itself, levels
    equally likely.

    (Kingma et al. 2021, arXiv:2107.00630, appendix; no network.)
    """

    def decoder(x_t: Tensor, denoised: Tensor, alpha: float, sigma: float) -> Tensor:
        x = in_float64(x_t)
        places = low + spacing * torch.arange(num_levels, dtype=torch.float64, device=x.device)
        logits = -0.5 * ((x.unsqueeze(-1) - alpha * places) / sigma) ** 2
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, levels.long().unsqueeze(-1).to(x.device))
        return -chosen.flatten(1).sum(1)

    return decoder


class Bound(NamedTuple):
    """A bound on `-log p`, in nats, as the sum of three terms `(B,)`; float64.

    Attributes:
        prior: how far the noised data are from the prior.
        diffusion: the steps between.
        reconstruction: the data from the least noise.
        nfe: batched network calls.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    nfe: int

    @property
    def log_prob(self) -> Tensor:
        """The sum, with its sign changed, is a lower bound on `log p`, `(B,)`."""
        return -(self.prior + self.diffusion + self.reconstruction)


@torch.no_grad()
@checked
def discrete_bound(
    model: Model,
    x_0: States,
    decoder: Decoder,
    *,
    num_steps: int = 1000,
    grid: Grid = "uniform_log_snr",
    num_calls: int | None = None,
    t_min: float | None = None,
    seeds: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
) -> Bound:
    """Return DDPM's bound for a ladder of any length.

    Args:
        model: gives the score.
        x_0: data `(B, *dims)` in model units.
        decoder: the last term, by one of the functions above.
        num_steps: length N of the ladder, which has as many times.
        grid: the times; see `time_grid`.
        num_calls: how many of the N - 1 steps are evaluated, drawn at random; all if left out or no less.
        t_min: first time; the process's own if left out.
        seeds: one an example, for its noise; drawn from `generator` if left out.
        generator: source of seeds.

    Raises:
        UserError: an option is out of range.
    """
    sde, noise, ends = _prepare(model, x_0, t_min, seeds, generator)
    check_between("num_steps", num_steps, 2, MOST_STEPS)
    times = time_grid(sde, grid, num_steps, float(ends[1]))
    times[0] = ends[0]
    log_snr = sde.log_snr(times)
    lengths = log_snr[1:] - log_snr[:-1]
    calls = len(lengths) if num_calls is None else min(num_calls, len(lengths))
    check_at_least("num_calls", calls, 1)
    everything = calls == len(lengths)
    probabilities = lengths / lengths.sum()
    posterior = posterior_of(model)
    total = torch.zeros(len(x_0), dtype=torch.float64)
    place = noise.uniform(torch.empty(len(x_0), 1, dtype=torch.float64))[:, 0]
    for call in range(calls):
        if everything:
            steps = torch.full((len(x_0),), call)
        else:
            steps = torch.searchsorted(probabilities.cumsum(0), (call + place) / calls).clamp(max=len(lengths) - 1)
        if posterior is not None:
            divergence = _step_kl(posterior, sde, x_0, times[steps], lengths[steps], noise)
            total += divergence if everything else divergence / (calls * probabilities[steps])
            continue
        error = _noise_error(model, x_0, times[steps], noise)
        weight = torch.expm1(lengths[steps]) / 2
        total += (weight if everything else weight / (calls * probabilities[steps])) * error
    return Bound(_prior_kl(sde, x_0), total, _reconstruct(model, x_0, ends[1], decoder, noise), calls + 1)


@torch.no_grad()
@checked
def continuous_bound(
    model: Model,
    x_0: States,
    decoder: Decoder,
    *,
    num_calls: int = 32,
    t_min: float | None = None,
    seeds: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
) -> Bound:
    """Return the variational bound in continuous time; arguments as of `discrete_bound`."""
    sde, noise, ends = _prepare(model, x_0, t_min, seeds, generator)
    total = torch.zeros(len(x_0), dtype=torch.float64)
    for log_snr, length in _log_snrs(sde, ends, num_calls, x_0, noise):
        time = sde.time_at_log_snr(log_snr).clamp(float(ends[1]), float(ends[0]))
        total += length / 2 * _noise_error(model, x_0, time, noise)
    return Bound(_prior_kl(sde, x_0), total, _reconstruct(model, x_0, ends[1], decoder, noise), num_calls + 1)


@torch.no_grad()
@checked
def score_flow_bound(
    model: Model,
    x: States,
    *,
    num_calls: int = 32,
    t_min: float | None = None,
    seeds: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
) -> Bound:
    """Return the bound on the density at `t_min`, for `x` `(B, *dims)` there; arguments else as of `discrete_bound`."""
    sde, noise, ends = _prepare(model, x, t_min, seeds, generator)
    total = torch.zeros(len(x), dtype=torch.float64)

    def noised(t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        scale, variance = sde.transition(ends[1], t)
        std = variance.clamp(min=0).sqrt()
        return sde.expand(scale, x) * x + sde.expand(std, x) * eps, std

    for log_snr, length in _log_snrs(sde, ends, num_calls, x, noise):
        t = sde.time_at_log_snr(log_snr).clamp(float(ends[1]), float(ends[0]))
        sigma = sde.at(t).sigma
        divergence = hutchinson_divergence(noise.rademacher(x.flatten(1))[None])

        def score(rows: Tensor, t: Tensor = t) -> Tensor:
            return model.score(rows.reshape(x.shape), t).flatten(1)

        eps = noise.normal(x)
        x_t, std = noised(t, eps)
        value, trace = divergence(score, x_t.flatten(1))
        square = sigma**2 * (in_float64(value).square().sum(1).cpu() + 2 * on_host(trace[:, 0]))
        gain = (1 - _share_of_noise(sde, x, t)) * std / sigma
        total += length / 2 * (square - gain**2 * _excess(eps))
    alphas = sde.log_alpha(ends)
    x_T, _ = noised(ends[0], noise.normal(x))
    prior = -on_host(sde.prior_log_prob(x_T))
    return Bound(prior, total - x[0].numel() * (alphas[0] - alphas[1]), torch.zeros_like(total), num_calls)


def _prepare(
    model: Model, x: Tensor, t_min: float | None, seeds: Iterable[int] | None, generator: torch.Generator | None
) -> tuple[SDE, SampleNoise, Tensor]:
    """Return the process, a source of noise, and the times `t_max, t_min`."""
    check_score(model, "a bound")
    ends = torch.tensor([model.sde.t_max, last_time(model.sde, t_min)], dtype=torch.float64)
    log_snr_range(model.sde, float(ends[1]))
    return model.sde, sample_noise(x, seeds, generator, stream="bound"), ends


def _log_snrs(sde: SDE, ends: Tensor, num_calls: int, x: Tensor, noise: SampleNoise) -> Iterable[tuple[Tensor, float]]:
    """Return log-SNRs `(B,)`, one in each of `num_calls` equal intervals, and their length."""
    check_between("num_calls", num_calls, 1, MOST_STEPS)
    low, high = sde.log_snr(ends).tolist()
    place = noise.uniform(torch.empty(len(x), 1, dtype=torch.float64))[:, 0]
    length = (high - low) / num_calls
    return [(low + (call + place) * length, length) for call in range(num_calls)]


def _noise_error(model: Model, x_0: Tensor, t: Tensor, noise: SampleNoise) -> Tensor:
    """Return an unbiased estimate of `E||eps - eps_hat||^2` `(B,)`, on the CPU, at times `t` `(B,)`, with fresh noise.

    Were data normal, `eps - eps_hat` would be `k eps` and something independent. So `k^2 (||eps||^2 - d)`, whose mean
    is 0, is taken off: at little noise hardly any variance is left. (ScoreFlow's bound is treated alike.)
    """
    eps, sde = noise.normal(x_0), model.sde
    score = model.score(sde.perturb(x_0, eps, t), t)
    square = in_float64(eps + sde.expand(sde.at(t).sigma, x_0) * score).flatten(1).square().sum(1).cpu()
    return square - _share_of_noise(sde, x_0, t) ** 2 * _excess(eps)


def _step_kl(
    posterior: Callable[[Tensor, Tensor], Posterior],
    sde: SDE,
    x_0: Tensor,
    t: Tensor,
    length: Tensor,
    noise: SampleNoise,
) -> Tensor:
    """Return an unbiased estimate of the divergence of a step of this length in log-SNR from times `t` `(B,)`, with the
    model's own variance; `(B,)`, on the CPU. What is taken off for normal data is as in `_noise_error`."""
    eps = noise.normal(x_0)
    mean, variance = posterior(sde.perturb(x_0, eps, t), t)
    assert variance is not None
    x = in_float64(x_0)
    snr, w = sde.expand(sde.at(t).log_snr.exp(), x), sde.expand(torch.expm1(length), x)
    ratio = (1 + w * snr * in_float64(variance)).clamp(min=LEAST_SHARE)
    square = snr * (x - in_float64(mean)) ** 2
    each = torch.log(ratio) - (ratio - 1) / ratio + w * square / ratio
    k = sde.expand(_share_of_noise(sde, x_0, t), x)
    known = w * k**2 / (1 + w * k) * (in_float64(eps) ** 2 - 1)
    return 0.5 * (each - known).flatten(1).sum(1).cpu()


def _share_of_noise(sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """Return `k = s^2 / (s^2 + rho^2)` `(B,)`, on the CPU, with `s^2` the mean square of each example."""
    variance = in_float64(x).flatten(1).square().mean(1).cpu()
    return variance / (variance + torch.exp(-sde.log_snr(t)))


def _excess(eps: Tensor) -> Tensor:
    """Return `||eps||^2 - d` `(B,)`, on the CPU."""
    return in_float64(eps).flatten(1).square().sum(1).cpu() - eps[0].numel()


def _prior_kl(sde: SDE, x_0: Tensor) -> Tensor:
    end = sde.at(sde.t_max)
    mean = float(end.alpha) / sde.prior_std * in_float64(x_0).flatten(1)
    ratio = (float(end.sigma) / sde.prior_std) ** 2
    return 0.5 * (mean**2 + ratio - 1 - math.log(ratio)).sum(1).cpu()


def _reconstruct(model: Model, x_0: Tensor, t: Tensor, decoder: Decoder, noise: SampleNoise) -> Tensor:
    here = model.sde.at(t)
    x_t = model.sde.perturb(x_0, noise.normal(x_0), t)
    return decoder(x_t, model.denoise(x_t, t), float(here.alpha), float(here.sigma)).cpu()
