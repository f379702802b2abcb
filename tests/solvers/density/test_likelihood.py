"""Log-likelihoods against exact log-densities of Gaussian mixtures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE, SubVPSDE
from score_sde.solvers import encode, log_likelihood, matched_prior

FLOAT = torch.float64
SDES = [VPSDE(), VPSDE(t_min=1e-5), SubVPSDE(), VESDE()]
NAMES = ["vp", "vp from 1e-5", "subvp", "ve"]


class Problem:
    """Four Gaussians with full covariances, deviations along their axes between 0.05 and 0.7, and samples at t_min."""

    def __init__(self, sde, dimension: int, count: int) -> None:
        generator = torch.Generator().manual_seed(dimension)
        self.weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=FLOAT)
        self.means = 0.7 * torch.randn(4, dimension, generator=generator, dtype=FLOAT)
        axes = torch.linalg.qr(torch.randn(4, dimension, dimension, generator=generator, dtype=FLOAT))[0]
        roots = axes * (0.05 * 14 ** torch.rand(4, 1, dimension, generator=generator, dtype=FLOAT))
        self.covariances = roots @ roots.mT
        self.model = GaussianMixture(sde, self.weights, self.means, self.covariances)
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        normal = torch.randn(2, count, dimension, generator=generator, dtype=FLOAT)
        x_0 = self.means[component] + (roots[component] @ normal[0, :, :, None])[..., 0]
        self.x = sde.perturb(x_0, normal[1], torch.tensor(sde.t_min, dtype=FLOAT))
        self.truth = self.model.log_prob(self.x, torch.tensor(sde.t_min, dtype=FLOAT))

    def density_at_end(self, x):
        return self.model.log_prob(x, torch.tensor(self.model.sde.T, dtype=FLOAT))

    def moments(self):
        mean = self.weights @ self.means
        second = self.covariances.diagonal(dim1=1, dim2=2) + self.means**2
        return mean, self.weights @ second - mean**2

    def error(self, result) -> float:
        """Largest error, in nats per dimension."""
        return float((result.log_prob - self.truth).abs().max()) / self.x.shape[1]


@pytest.mark.parametrize("dimension", [2, 64])
@pytest.mark.parametrize("sde", SDES, ids=NAMES)
def test_exact_likelihood_is_the_true_density(sde, dimension):
    problem = Problem(sde, dimension, 64 if dimension == 2 else 8)
    result = log_likelihood(problem.model, problem.x, divergence="exact", prior=problem.density_at_end)
    assert problem.error(result) < 1e-6
    latents = encode(problem.model, problem.x).x
    assert (result.latents - latents).abs().max() < 1e-5 * sde.prior_std


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
def test_mismatch_of_the_standard_prior_and_of_the_matched_one(sde):
    """The whole error is the prior's, at the latents; the data's mean and variance, carried to T, remove most of it."""
    problem = Problem(sde, 64, 8)
    settings: dict[str, Any] = {"divergence": "exact", "rtol": 1e-6, "atol": 1e-6}
    standard = log_likelihood(problem.model, problem.x, **settings)
    mismatch = sde.prior_log_prob(standard.latents) - problem.density_at_end(standard.latents)
    assert torch.allclose(standard.log_prob - problem.truth, mismatch, atol=64e-5)
    matched = log_likelihood(problem.model, problem.x, prior=matched_prior(sde, *problem.moments()), **settings)
    before, after = (float((result.log_prob - problem.truth).abs().mean()) / 64 for result in (standard, matched))
    print(f"mismatch in nats per dimension: {before:.1e} with the standard prior, {after:.1e} with the matched one")
    assert 2e-4 < before < 2e-3
    assert after < before / 5


def test_matched_prior_is_exact_for_one_diagonal_gaussian():
    sde = VESDE(sigma_max=2.0)
    mean, variance = torch.tensor([1.0, -2.0], dtype=FLOAT), torch.tensor([0.5, 3.0], dtype=FLOAT)
    model = GaussianMixture(sde, torch.ones(1, dtype=FLOAT), mean[None], torch.diag(variance)[None])
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=FLOAT)
    expected = model.log_prob(x, torch.tensor(1.0, dtype=FLOAT))
    assert torch.allclose(matched_prior(sde, mean, variance)(x), expected, rtol=1e-12)
    images = matched_prior(sde, mean.reshape(1, 1, 2), variance.reshape(1, 1, 2))(x.reshape(5, 1, 1, 2))
    assert torch.allclose(images, expected, rtol=1e-12)


@pytest.mark.parametrize("estimator", ["hutchinson rademacher", "hutchinson gaussian", "hutch++ rademacher"])
def test_estimators_are_unbiased_and_their_variance_falls(estimator):
    """One example, 400 seeds."""
    divergence, probe = estimator.split()
    problem = Problem(VPSDE(t_min=0.01), 8, 1)
    x = problem.x.expand(400, 8)
    settings: dict[str, Any] = {"probe": probe, "prior": problem.density_at_end, "rtol": 1e-4, "atol": 1e-4}
    variances = []
    for num_probes in (1, 4):
        options = {**settings, "divergence": divergence, "num_probes": num_probes, "seeds": range(400)}
        log_prob = log_likelihood(problem.model, x, **options).log_prob
        assert abs(log_prob.mean() - problem.truth) < 4 * log_prob.std() / 20
        variances.append(float(log_prob.var()))
    # Each variance is known to about 7%.
    if divergence == "hutchinson":
        assert math.log(variances[0] / variances[1]) == pytest.approx(math.log(4), abs=0.35)
    else:
        assert variances[0] / variances[1] > 4


def test_each_probe_gives_the_likelihood_that_it_gives_alone():
    problem = Problem(VPSDE(t_min=0.01), 8, 5)
    settings: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6, "seeds": range(5)}
    one = log_likelihood(problem.model, problem.x, num_probes=1, **settings)
    three = log_likelihood(problem.model, problem.x, num_probes=3, **settings)
    assert one.by_probe.shape == (5, 1)
    assert three.by_probe.shape == (5, 3)
    assert torch.allclose(three.by_probe[:, 0], one.log_prob, atol=1e-4)
    assert (three.by_probe[:, 1] - one.log_prob).abs().min() > 1e-3
    assert torch.equal(three.by_probe.mean(1), three.log_prob)


class Shifted(nn.Module):
    """The data are `x + shift`, with the mixture's `x`; the score is exact for every shift."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.shift = nn.Parameter(torch.linspace(0.1, -0.2, mixture.means.shape[1], dtype=FLOAT))

    @property
    def sde(self):
        return self.mixture.sde

    def at_time(self, x, t):
        return x - self.sde.expand(self.sde.alpha(t), x) * self.shift

    def score(self, x, t):
        return self.mixture.score(self.at_time(x, t), t)

    def denoise(self, x, t):
        return self.mixture.denoise(self.at_time(x, t), t) + self.shift

    def log_prob(self, x, t):
        return self.mixture.log_prob(self.at_time(x, t), t)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_derivatives_of_the_likelihood_are_those_of_the_density(sde, method):
    """By `x` it is the score; by a parameter, that of the mixture's log-density in closed form."""
    problem = Problem(sde, 3, 4)
    model, t_min, T = Shifted(problem.model), torch.tensor(sde.t_min, dtype=FLOAT), torch.tensor(sde.T, dtype=FLOAT)
    x = problem.x.clone().requires_grad_()
    settings: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8} if method == "dopri5" else {"num_steps": 100}
    result = log_likelihood(
        model,
        x,
        divergence="exact",
        prior=lambda x: model.log_prob(x, T),
        method=method,
        differentiable=True,
        grid="log_angle" if method == "rk4" else None,
        **settings,
    )
    by_x, by_shift = torch.autograd.grad(result.log_prob.sum(), (x, model.shift))
    expected = torch.autograd.grad(model.log_prob(x, t_min).sum(), (x, model.shift))
    scale = expected[0].abs().max()
    assert (by_x - model.score(x, t_min)).abs().max() < 1e-5 * scale
    assert (by_shift - expected[1]).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_an_example_does_not_depend_on_its_batch_mates(divergence):
    problem = Problem(SubVPSDE(), 8, 64)
    settings: dict[str, Any] = {"divergence": divergence, "rtol": 1e-5, "atol": 1e-5}
    together = log_likelihood(problem.model, problem.x, seeds=range(64), **settings)
    for row in (0, 31, 63):
        alone = log_likelihood(problem.model, problem.x[row : row + 1], seeds=[row], **settings)
        assert torch.allclose(together.log_prob[row], alone.log_prob[0], rtol=1e-11, atol=1e-11)
        assert torch.allclose(together.latents[row], alone.latents[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_solver"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_calls_are_counted_and_stay_inside(method, divergence, counting):
    problem = Problem(VPSDE(), 8, 3)
    model = counting(problem.model)
    settings: dict[str, Any] = {"num_steps": 60} if method == "rk4" else {"rtol": 1e-5, "atol": 1e-5}
    result = log_likelihood(
        model,
        problem.x,
        divergence=divergence,
        prior=problem.density_at_end,
        method=method,
        seeds=[0, 1, 2],
        **settings,
    )
    assert result.nfe == len(model.times)
    assert model.lies_inside(1e-3)
    if divergence == "exact":
        assert problem.error(result) < 1e-3


def test_images_and_seeds():
    problem = Problem(VPSDE(), 64, 2)
    settings: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    flat = log_likelihood(problem.model, problem.x, seeds=[3, 4], **settings)
    image = log_likelihood(problem.model, problem.x.reshape(2, 1, 8, 8), seeds=[3, 4], **settings)
    assert torch.allclose(flat.log_prob, image.log_prob, rtol=1e-12)
    assert image.latents.shape == (2, 1, 8, 8)
    first, second, other = (
        log_likelihood(problem.model, problem.x, generator=torch.Generator().manual_seed(seed), **settings).log_prob
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert (first - other).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "skilling"}, "no divergence is called 'skilling'; there are: exact, hutchinson, hutch"),
        ({"probe": "uniform"}, "no probe is called 'uniform'"),
        ({"num_probes": 0}, "num_probes must be at least 1"),
        ({"method": "rk4"}, "'rk4' takes fixed steps: give num_steps"),
        ({"t_min": 1.0}, "t_min must lie in"),
        ({"seeds": [1]}, "1 seeds for a batch of 2"),
    ],
)
def test_mistakes_are_explained(options, message):
    problem = Problem(VPSDE(), 2, 2)
    with pytest.raises(UserError, match=message):
        log_likelihood(problem.model, problem.x, **options)
