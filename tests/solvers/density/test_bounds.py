"""Variational bounds on Gaussian mixtures, whose score and density are known: each bound against the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE
from score_sde.solvers.density.bounds import (
    Bound,
    continuous_bound,
    discrete_bound,
    discretised_gaussian_decoder,
    gaussian_decoder,
    posterior_decoder,
    score_flow_bound,
)

FLOAT = torch.float64
SDES = [VPSDE(), SubVPSDE(), VESDE(sigma_min=1e-4), RectifiedFlow()]
REPEATS = 2000


def name(sde: SDE) -> str:
    return type(sde).__name__


class Problem:
    """Three Gaussians in the plane, and samples; the data's own density at `t = 0`, and the model's at `t_min`."""

    def __init__(self, sde: SDE, count: int = 6) -> None:
        self.sde = sde
        self.weights = torch.tensor([0.5, 0.3, 0.2], dtype=FLOAT)
        self.means = torch.tensor([[0.6, 0.0], [-0.5, 0.6], [-0.2, -0.7]], dtype=FLOAT)
        roots = torch.tensor(
            [[[0.3, 0.0], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.3]], [[0.25, 0], [0.1, 0.15]]], dtype=FLOAT
        )
        self.model = GaussianMixture(sde, self.weights, self.means, roots @ roots.mT)
        generator = torch.Generator().manual_seed(0)
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, 1, generator=generator, dtype=FLOAT)
        self.x_0 = self.means[component] + (roots[component] @ noise)[..., 0]
        without_noise = GaussianMixture(VPSDE(), self.weights, self.means, roots @ roots.mT)
        self.truth = without_noise.log_prob(self.x_0, torch.tensor(0.0, dtype=FLOAT))

    def repeated(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(REPEATS, dim=0)

    def mismatch(self, x: Tensor, s: float) -> Tensor:
        """`E log pi(x_T) - log p_T(x_T)` for `x` `(B, 2)` at time `s`, by quadrature."""
        T = torch.tensor(self.sde.T, dtype=FLOAT)
        scale, variance = self.sde.transition(torch.tensor(s, dtype=FLOAT), T)
        points, weights = (torch.from_numpy(array) for array in stats_nodes())
        grid = torch.cartesian_prod(points, points)
        x_T = scale * x[:, None] + variance.sqrt() * grid
        difference = self.sde.prior_log_prob(x_T.flatten(0, 1)) - self.model.log_prob(x_T.flatten(0, 1), T)
        return difference.reshape(len(x), -1) @ torch.cartesian_prod(weights, weights).prod(1)


def stats_nodes():
    """Gauss–Hermite nodes and weights for a standard normal variable."""
    points, weights = np.polynomial.hermite_e.hermegauss(20)
    return points, weights / weights.sum()


def mean_and_error(bound: Bound) -> tuple[Tensor, Tensor]:
    """Mean and standard error over the repeats of each example."""
    values = bound.log_prob.reshape(-1, REPEATS)
    return values.mean(1), values.std(1) / math.sqrt(REPEATS)


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_with_the_exact_score_the_continuous_bound_is_the_truth(sde, one_generator):
    """Example by example, up to the prior's mismatch, which is known by itself."""
    problem = Problem(sde)
    x_0 = problem.repeated(problem.x_0)
    t_min = float(sde.time_at_log_snr(torch.tensor(2 * math.log(300.0))))
    bound = continuous_bound(
        problem.model, x_0, gaussian_decoder(x_0), num_calls=48, t_min=t_min, seeds=range(len(x_0))
    )
    mean, error = mean_and_error(bound)
    expected = problem.truth + problem.mismatch(problem.x_0, 0.0)
    print(f"largest deviation {float((mean - expected).abs().max()):.1e}, standard errors {error.tolist()}")
    assert float(error.max()) < 0.035
    assert ((mean - expected).abs() < 4 * error).all()


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_with_the_exact_score_the_bound_of_score_flow_is_the_density_at_t_min(sde, one_generator):
    problem = Problem(sde)
    time = torch.tensor(0.01, dtype=FLOAT)
    at_time = sde.perturb(problem.x_0, torch.ones_like(problem.x_0), time)
    x = problem.repeated(at_time)
    mean, error = mean_and_error(score_flow_bound(problem.model, x, num_calls=48, t_min=0.01, seeds=range(len(x))))
    expected = problem.model.log_prob(at_time, time) + problem.mismatch(at_time, 0.01)
    assert float(error.max()) < 0.07
    assert ((mean - expected).abs() < 4 * error).all()


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_the_discrete_bound_lies_below_the_truth_and_its_gap_falls_as_one_over_steps(sde, one_generator):
    problem = Problem(sde)
    x_0 = problem.repeated(problem.x_0)
    t_min = float(sde.time_at_log_snr(torch.tensor(2 * math.log(100.0))))
    gaps = []
    for num_steps in (40, 80, 160):
        settings: dict[str, Any] = {"num_steps": num_steps, "t_min": t_min, "seeds": range(len(x_0))}
        bound = discrete_bound(problem.model, x_0, gaussian_decoder(x_0), **settings)
        assert bound.nfe == num_steps
        mean, error = mean_and_error(bound)
        gap = problem.truth + problem.mismatch(problem.x_0, 0.0) - mean
        assert (gap > -3 * error).all()
        gaps.append(float(gap.mean()))
    print("gaps", gaps)
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.35)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.5)


def test_a_few_steps_drawn_at_random_estimate_the_sum_of_all(one_generator):
    problem = Problem(VPSDE(), count=1)
    x_0 = problem.repeated(problem.repeated(problem.x_0))[:8000]
    settings: dict[str, Any] = {"num_steps": 50, "grid": "quadratic_t", "seeds": range(len(x_0))}
    everything = discrete_bound(problem.model, x_0, gaussian_decoder(x_0), **settings).diffusion
    few = discrete_bound(problem.model, x_0, gaussian_decoder(x_0), num_calls=7, **settings)
    assert few.nfe == 8
    error = math.hypot(float(few.diffusion.std()), float(everything.std())) / math.sqrt(len(x_0))
    assert abs(float(few.diffusion.mean() - everything.mean())) < 4 * error
    assert error < 0.1


def test_one_step_of_the_discrete_bound_is_the_divergence_of_its_two_gaussians():
    """A ladder of two times: the KL divergence of `q(x_s | x_t, x_0)` and `q(x_s | x_t, D)`, as in DDPM."""
    sde = VPSDE()
    problem = Problem(sde, count=4)
    seeds, s, t = range(4), torch.tensor(0.3, dtype=FLOAT), torch.tensor(1.0, dtype=FLOAT)
    asked: list[Tensor] = []

    class Listening:
        def __init__(self) -> None:
            self.sde = sde

        def score(self, x: Tensor, t: Tensor) -> Tensor:
            asked.append(x)
            return problem.model.score(x, t)

        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            return problem.model.denoise(x, t)

    bound = discrete_bound(
        Listening(), problem.x_0, gaussian_decoder(problem.x_0), num_steps=2, grid=[1.0, 0.3], t_min=0.3, seeds=seeds
    )
    _, variance = sde.transition(s, t)
    posterior_variance = variance * sde.sigma(s) ** 2 / sde.sigma(t) ** 2
    coefficient = sde.alpha(s) * variance / sde.sigma(t) ** 2
    difference = coefficient * (problem.x_0 - problem.model.denoise(asked[0], t))
    expected = 0.5 * (difference**2).sum(1) / posterior_variance
    # What is taken off for less variance, and is 0 in the mean.
    eps = (asked[0] - sde.alpha(t) * problem.x_0) / sde.sigma(t)
    square = problem.x_0.square().mean(1)
    k = square / (square + torch.exp(-sde.log_snr(t)))
    excess = torch.expm1(sde.log_snr(s) - sde.log_snr(t)) / 2 * k**2 * (eps.square().sum(1) - 2)
    torch.testing.assert_close(bound.diffusion, expected - excess, rtol=1e-9, atol=0)
    mean, std = sde.alpha(t) * problem.x_0, sde.sigma(t)
    prior = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, sde.prior_std)
    ).sum(1)
    torch.testing.assert_close(bound.prior, prior, rtol=1e-6, atol=1e-12)


def test_decoders_against_scipy():
    levels, low, spacing = torch.tensor([[0, 1, 4, 2]]), -1.0, 0.5
    denoised = torch.tensor([[-0.9, -0.4, 0.7, 3.5]], dtype=FLOAT)
    alpha, sigma = 0.9, 0.2
    std = sigma / alpha
    edges = [(-math.inf, -0.75), (-0.75, -0.25), (0.75, math.inf), (-0.25, 0.25)]
    masses = []
    for (lower, upper), mean in zip(edges, denoised[0].tolist(), strict=True):
        tails = stats.norm.sf if lower > mean else stats.norm.cdf
        masses.append(abs(tails((upper - mean) / std) - tails((lower - mean) / std)))
    decoder = discretised_gaussian_decoder(levels, low, spacing, 5)
    assert float(decoder(denoised, denoised, alpha, sigma)[0]) == pytest.approx(-sum(map(math.log, masses)), rel=1e-9)

    x_t = alpha * denoised
    places = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=FLOAT)
    density = stats.norm.pdf(x_t[0][:, None].numpy(), alpha * places.numpy(), sigma)
    chosen = [density[i, k] / density[i].sum() for i, k in enumerate(levels[0].tolist())]
    decoder = posterior_decoder(levels, low, spacing, 5)
    assert float(decoder(x_t, denoised, alpha, sigma)[0]) == pytest.approx(-sum(map(math.log, chosen)), rel=1e-9)

    x_0 = denoised + 0.1
    decoder = gaussian_decoder(x_0)
    expected = -stats.norm.logpdf(x_0.numpy(), denoised.numpy(), std).sum()
    assert float(decoder(x_t, denoised, alpha, sigma)[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_calls": 0}, "num_calls must be at least 1"),
        ({"t_min": 2.0}, "t_min must lie in"),
        ({"seeds": [1]}, "1 seeds for a batch of 6"),
    ],
)
@pytest.mark.parametrize("bound", [continuous_bound, discrete_bound, score_flow_bound])
def test_mistakes_are_explained(bound, options, message):
    problem = Problem(VPSDE())
    decoder = () if bound is score_flow_bound else (gaussian_decoder(problem.x_0),)
    with pytest.raises(UserError, match=message):
        bound(problem.model, problem.x_0, *decoder, **options)
