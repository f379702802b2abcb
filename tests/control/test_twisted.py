"""The twisted diffusion sampler against its own chain's posterior, by quadrature, and against the exact one."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.control import TDS, LinearOperator, Masked, Observation, Particles
from score_sde.control.inverse_problems import answer
from score_sde.models import GaussianMixture, Given
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.grids import time_grid
from tests.control.mixture import FLOAT, MIXTURE

VP = VPSDE()
WEIGHTS = torch.tensor([0.6, 0.4], dtype=FLOAT)
MEANS = torch.tensor([[-0.8], [0.9]], dtype=FLOAT)
VARIANCES = torch.tensor([0.16, 0.09], dtype=FLOAT)
PRIOR = GaussianMixture(VP, WEIGHTS, MEANS, VARIANCES[:, None, None])
Y, NOISE_STD = 0.2, 0.5
RUNS = 32


def exact() -> tuple[float, float]:
    """Return the exact posterior mean and log-evidence of `y = x_0 + s n`, a mixture's."""
    variance, means = VARIANCES + NOISE_STD**2, MEANS[:, 0]
    log_joint = WEIGHTS.log() - 0.5 * ((Y - means) ** 2 / variance + torch.log(2 * math.pi * variance))
    shares = torch.softmax(log_joint, 0)
    mean = shares @ (means + VARIANCES / variance * (Y - means))
    return float(mean), float(torch.logsumexp(log_joint, 0))


@lru_cache
def of_chain(num_steps: int, eta: float = 1.0) -> tuple[float, float]:
    """Return what TDS estimates, without error: the posterior mean and log-evidence of the chain itself.

    `h_k(x) = E[L(x_0) (1, x_0) | x_k = x]` goes from the last time to the first by Gauss–Hermite quadrature.
    """
    ends = VP.at(time_grid(VP, "log_angle", num_steps))
    x, (nodes, weights) = np.linspace(-6, 6, 801), np.polynomial.hermite_e.hermegauss(24)
    weights = weights / weights.sum()

    def denoised(k: int) -> np.ndarray:
        return PRIOR.denoise(torch.from_numpy(x)[:, None], ends.t[k])[:, 0].numpy()

    x_0 = denoised(num_steps - 1)
    likelihood = np.exp(-0.5 * ((Y - x_0) / NOISE_STD) ** 2) / (math.sqrt(2 * math.pi) * NOISE_STD)
    h = np.stack([likelihood, likelihood * x_0], 1)
    for k in reversed(range(num_steps - 1)):
        (alpha_t, sigma_t), (alpha_u, sigma_u) = (
            (float(end.alpha), float(end.sigma)) for end in (ends[k], ends[k + 1])
        )
        variance = (eta * sigma_u) ** 2 * (1 - (sigma_u * alpha_t / (alpha_u * sigma_t)) ** 2)
        mean_0 = denoised(k)
        mean = alpha_u * mean_0 + math.sqrt(sigma_u**2 - variance) * (x - alpha_t * mean_0) / sigma_t
        places = (mean[:, None] + math.sqrt(variance) * nodes).clip(x[0], x[-1])
        h = np.einsum("q,xqc->xc", weights, CubicSpline(x, h)(places))
    evidence, mean = weights @ CubicSpline(x, h)(VP.prior_std * nodes)
    return mean / evidence, math.log(evidence)


def sample(num_steps: int, num_particles: int, **options: Any) -> Particles:
    """Return the particles of runs of the same problem, which differ in their seeds."""
    observation = Observation(LinearOperator(lambda x: x), torch.full((RUNS, 1), Y, dtype=FLOAT), NOISE_STD)
    tds = TDS(num_steps=num_steps, num_particles=num_particles, data_std=0.9, **options)
    return tds(PRIOR, observation, (1,), seeds=range(RUNS))


def test_the_error_falls_with_the_root_of_the_particles():
    counts = [16 * 2**k for k in range(7)]
    errors = []
    for count in counts:
        particles = sample(10, count)
        assert particles.nfe == 10
        errors.append(float((particles.mean[:, 0] - of_chain(10)[0]).square().mean().sqrt()))
        # The evidence, and not its logarithm, is unbiased.
        ratios = (particles.log_evidence - of_chain(10)[1]).exp()
        assert abs(float(ratios.mean()) - 1) < 4 * float(ratios.std()) / math.sqrt(RUNS)
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_what_is_left_halves_with_twice_the_steps():
    """The chain's posterior, by quadrature, comes nearer; that of many particles lies there and not at the exact."""
    for kind in range(2):
        left = [abs(of_chain(num_steps)[kind] - exact()[kind]) for num_steps in (10, 20, 40, 80)]
        assert all(0.4 < later / earlier < 0.55 for earlier, later in pairwise(left))
    particles = sample(10, 2048)
    error = float(particles.mean.std()) / math.sqrt(RUNS)
    assert abs(float(particles.mean.mean()) - of_chain(10)[0]) < 4 * error
    assert abs(float(particles.mean.mean()) - exact()[0]) > 8 * error


def test_less_noisy_chains():
    particles = sample(20, 512, eta=0.5, resample_below=0.9)
    assert abs(float(particles.mean.mean()) - of_chain(20, 0.5)[0]) < 4 * float(particles.mean.std()) / math.sqrt(RUNS)


def test_what_is_not_linear_against_quadrature():
    """Of `y = a b + s n`, `a` and `b` the coordinates: the posterior's mean, covariance and evidence."""
    y, noise_std = torch.tensor([[0.5], [-1.5]], dtype=FLOAT), 0.5

    def operator(x: Tensor) -> Tensor:
        return x[:, :1] * x[:, 1:]

    line = torch.linspace(-5, 5, 401, dtype=FLOAT)
    places, step = torch.cartesian_prod(line, line), float(line[1] - line[0])
    density = sum(
        weight * torch.distributions.MultivariateNormal(mean, covariance).log_prob(places).exp()
        for weight, mean, covariance in zip(MIXTURE.weights, MIXTURE.means, MIXTURE.covariances, strict=True)
    )
    observation = Observation(operator, y.repeat_interleave(8, 0), noise_std)
    particles = TDS(num_steps=80, num_particles=512, data_std=1.6)(
        MIXTURE.model(VP), observation, (2,), seeds=range(16)
    )
    for row in range(2):
        likelihood = torch.distributions.Normal(operator(places)[:, 0], noise_std).log_prob(y[row]).exp()
        joint = density * likelihood * step**2
        mean = joint @ places / joint.sum()
        away = places - mean
        covariance = torch.einsum("n,ni,nj->ij", joint, away, away) / joint.sum()
        runs = slice(8 * row, 8 * row + 8)
        assert float((particles.mean[runs].mean(0) - mean).abs().max()) < 0.06
        away = particles.x[runs] - mean
        found = torch.einsum("rk,rki,rkj->ij", particles.weights[runs], away, away) / 8
        assert float((found - covariance).abs().max()) < 0.06
        assert float(particles.log_evidence[runs].exp().mean() / joint.sum()) == pytest.approx(1, abs=0.06)


class Shifted:
    """The mixture moved by what it is told."""

    sde = VP

    def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        shift = condition.values["shift"][:, None]
        return PRIOR.denoise(x - VP.at(t).to(x)[0] * shift, t) + shift


def test_problems_never_meet():
    """Each has what it has alone: its particles, their weights, its evidence, and its condition."""
    y, shift = torch.tensor([[0.2], [-1.5], [3.0]], dtype=FLOAT), torch.tensor([0.0, 0.5, 2.0], dtype=FLOAT)
    tds, identity = TDS(num_steps=10, num_particles=5, resample_below=0.8), LinearOperator(lambda x: x)
    given = Given(Shifted(), Condition({"shift": shift}))
    together = tds(given, Observation(identity, y, 0.3), (1,), seeds=[5, 6, 7])
    torch.testing.assert_close(together.weights.sum(1), torch.ones(3, dtype=FLOAT))
    for row in range(3):
        rows = slice(row, row + 1)
        alone = tds(given.rows(rows), Observation(identity, y[rows], 0.3), (1,), seeds=[5 + row])
        for name in ("x", "weights", "log_evidence"):
            torch.testing.assert_close(getattr(together, name)[rows], getattr(alone, name), rtol=0, atol=1e-12)


def test_hidden_pixels_are_not_observed():
    """The evidence is that of the one number that was observed, whatever stands where nothing was."""
    y = torch.tensor([[0.4, 7.0]], dtype=FLOAT).expand(16, 2)
    observation = Observation(Masked(torch.tensor([True, False])), y, 0.5)
    particles = TDS(num_steps=80, num_particles=128)(MIXTURE.model(VP), observation, (2,), seeds=range(16))
    variance = MIXTURE.covariances[:, 0, 0] + 0.25
    density = torch.distributions.Normal(MIXTURE.means[:, 0], variance.sqrt()).log_prob(torch.tensor(0.4)).exp()
    assert float(particles.log_evidence.exp().mean() / (MIXTURE.weights @ density)) == pytest.approx(1, abs=0.06)
    exact_mean = MIXTURE.posterior(torch.tensor([1.0, 0.0], dtype=FLOAT), 0.4, 0.5).moments()[0]
    assert float((particles.mean.mean(0) - exact_mean).abs().max()) < 0.06


def test_one_particle_of_each_problem_is_a_sample():
    """Answers follow the posterior of the chain, each by its own seed."""
    count = 400
    observation = Observation(LinearOperator(lambda x: x), torch.full((count, 1), Y, dtype=FLOAT), NOISE_STD)
    options: dict[str, Any] = {"num_steps": 20, "num_particles": 16, "data_std": 0.9}
    solver, model = answer("tds", get_solver("ddim", num_steps=4), PRIOR, observation, **options)
    x_T = torch.zeros(count, 1, dtype=FLOAT)
    solution = solver(model, x_T, seeds=range(count))
    assert solution.nfe == 20 == solver.calls(VP)
    assert abs(float(solution.x.mean()) - of_chain(20)[0]) < 4 * float(solution.x.std()) / math.sqrt(count)
    alone, _ = answer("tds", get_solver("ddim", num_steps=4), PRIOR, observation.rows(slice(7, 8)), **options)
    torch.testing.assert_close(alone(model, x_T[:1], seeds=[7]).x, solution.x[7:8], rtol=0, atol=1e-12)


def test_what_cannot_be_is_refused():
    operator, y = LinearOperator(lambda x: x), torch.zeros(2, 1, dtype=FLOAT)
    with pytest.raises(UserError, match="TDS weighs by the likelihood of the observation's noise"):
        TDS()(PRIOR, Observation(operator, y), (1,))
    with pytest.raises(UserError, match="1 seeds for a batch of 2"):
        TDS()(PRIOR, Observation(operator, y, 1.0), (1,), seeds=[0])
    with pytest.raises(UserError, match=r"y has shape .*, but its operator gives"):
        TDS()(PRIOR, Observation(operator, y[:, 0], 1.0), (1,), seeds=[0, 1])
    with pytest.raises(UserError, match="eta must be positive"):
        TDS(eta=0.0)
    with pytest.raises(UserError, match="such as"):
        TDS()(PRIOR, Observation(operator, y, 1.0), ())
