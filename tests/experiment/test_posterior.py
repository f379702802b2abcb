"""Posteriors of a linear-Gaussian simulator, from its exact network: densities, modes, sample shapes, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import score_sde
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.data import Standardised
from score_sde.experiment.composed_posterior import known_prior
from tests.experiment.test_array_conditions import EXACT

# theta ~ N(0, I), x = theta @ A + NOISE n; thetas are standardised by numbers that are nearly 0 and 1.
A = np.array([[1.0, 0.5], [0.0, 2.0]])
NOISE = 0.8
PRECISION = np.eye(2) + A @ A.T / NOISE**2
COVARIANCE = np.linalg.inv(PRECISION)
OPTIONS: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6, "t_min": 1e-5}


def simulated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    theta = generator.normal(size=(count, 2))
    return theta, theta @ A + NOISE * generator.normal(size=(count, 2))


def mean_given(x: np.ndarray) -> np.ndarray:
    return x @ A.T @ COVARIANCE / NOISE**2


def log_density(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    residual = theta - mean_given(x)
    return (
        -np.einsum("...i,ij,...j->...", residual, PRECISION, residual) / 2
        + np.linalg.slogdet(PRECISION)[1] / 2
        - math.log(2 * math.pi)
    )


class ExactPosterior(nn.Module):
    """A network that is the exact noise of `theta | x`, and of `theta` where `x` is hidden, in model units."""

    shift: Tensor
    slope: Tensor
    covariance: Tensor
    prior_mean: Tensor
    prior_covariance: Tensor

    def __init__(self, theta: np.ndarray, x: np.ndarray) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        scale = theta.std(0)
        values = {
            "shift": (mean_given(x.mean(0)) - theta.mean(0)) / scale,
            "slope": np.diag(x.std(0)) @ A.T @ COVARIANCE / NOISE**2 / scale,
            "covariance": COVARIANCE / np.outer(scale, scale),
            "prior_mean": -theta.mean(0) / scale,
            "prior_covariance": np.diag(scale**-2.0),
        }
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, theta: Tensor, rho: Tensor, condition: Condition | None = None) -> Tensor:
        alpha = (1 + rho.double() ** 2).rsqrt()[:, None]
        sigma = alpha * rho.double()[:, None]

        def noise(mean: Tensor, covariance: Tensor) -> Tensor:
            values, basis = torch.linalg.eigh(covariance)
            return sigma * ((theta.double() - alpha * mean) @ basis / (alpha**2 * values + sigma**2)) @ basis.T

        found = noise(self.prior_mean, self.prior_covariance)
        if condition is not None:
            [(name, x)] = condition.values.items()
            given = noise(self.shift + x.double() @ self.slope, self.covariance)
            hidden = condition.hidden_rows.get(name, torch.zeros(len(x), dtype=torch.bool, device=x.device))
            found = torch.where(hidden[:, None], found, given)
        return (found + 0 * self.unused).to(theta)


@pytest.fixture(scope="module")
def run() -> Any:
    theta, x = simulated(2000, seed=0)
    return score_sde.fit(theta, condition=x, network=ExactPosterior(theta, x), settings=EXACT)


def test_density_and_mode_are_the_closed_form(run) -> None:
    _, x = simulated(20, seed=1)
    posterior = run.posterior(x[0])
    noise = np.random.default_rng(2).normal(size=(20, 2))
    theta = mean_given(x[0]) + noise @ np.linalg.cholesky(COVARIANCE).T
    np.testing.assert_allclose(posterior.log_prob(theta, **OPTIONS), log_density(theta, x[0]), atol=0.02)
    np.testing.assert_allclose(posterior.map(), mean_given(x[0]), atol=0.01)
    # Gradients reach whoever asks with tensors.
    asked = torch.tensor(theta[:2], requires_grad=True)
    posterior.log_prob(asked, rtol=1e-4, atol=1e-4).sum().backward()
    assert asked.grad is not None
    np.testing.assert_allclose(asked.grad, (mean_given(x[0]) - theta[:2]) @ PRECISION, atol=0.03)


def test_samples_have_the_shapes_that_sbi_asks_for_and_are_the_posteriors(run) -> None:
    _, x = simulated(3, seed=2)
    options = {"solver": "heun", "num_steps": 40}
    many = run.posterior(x[0]).sample(4000, seed=0, **options)
    np.testing.assert_allclose(many.mean(0), mean_given(x[0]), atol=0.05)
    np.testing.assert_allclose(np.cov(many.T), COVARIANCE, atol=0.03)
    # Shapes, and seeds: sample i is that of seed + i, whatever the shape.
    shaped = run.posterior(torch.tensor(x[:1])).sample((5, 8), seed=0, **options)
    assert isinstance(shaped, Tensor)
    np.testing.assert_allclose(shaped.reshape(40, 2), many[:40], rtol=1e-4, atol=1e-5)
    assert run.posterior().sample((), x=x[0]).shape == (2,)
    # Without a seed torch's generator decides, so that two calls differ, and can be repeated.
    torch.manual_seed(3)
    first, second = (run.posterior(x[0]).sample(2) for _ in range(2))
    torch.manual_seed(3)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, run.posterior(x[0]).sample(2))
    # Many observations at once: each has its own.
    batched = run.posterior().sample_batched(torch.Size((1500,)), x=torch.tensor(x), seed=0, show_progress_bars=False)
    assert isinstance(batched, Tensor)
    np.testing.assert_allclose(batched.mean(0), mean_given(x), atol=0.07)
    some = batched[:4]
    found = run.posterior().log_prob_batched(some, x=torch.tensor(x), **OPTIONS)
    np.testing.assert_allclose(found, log_density(some.numpy(), x), atol=0.03)


def test_what_cannot_be_asked_is_refused(run) -> None:
    theta, x = simulated(3, seed=2)
    with pytest.raises(UserError, match="nothing was observed"):
        run.posterior().sample(2)
    with pytest.raises(UserError, match="one observation is asked for here, not 3"):
        run.posterior().sample(2, x=x)
    with pytest.raises(UserError, match="from 1 on"):
        run.posterior(x[0]).sample((0, 2))
    with pytest.raises(UserError, match=r"are \(N, 3, …\)"):
        run.posterior().log_prob_batched(theta, x)
    with pytest.raises(UserError, match="not finite"):
        run.posterior([math.nan, 0.0])


def test_several_observations_are_composed_and_measured(run) -> None:
    """Six observations of one theta, which together tell it to about 0.2; densities are those of the closed form."""
    generator = np.random.default_rng(5)
    x = np.array([0.5, -0.3]) @ A + NOISE * generator.normal(size=(6, 2))
    precision = np.eye(2) + 6 * A @ A.T / NOISE**2
    mean, covariance = x.sum(0) @ A.T @ np.linalg.inv(precision) / NOISE**2, np.linalg.inv(precision)
    for prior in (None, (np.zeros(2), np.eye(2))):
        posterior = run.posterior(x, prior=prior)
        samples = posterior.sample(1000, seed=0)
        np.testing.assert_allclose(samples.mean(0), mean, atol=0.15 * math.sqrt(covariance.max()))
        np.testing.assert_allclose(np.cov(samples.T), covariance, rtol=0.15, atol=0.1 * covariance.max())
    found = posterior.log_prob(samples[:10], **OPTIONS)
    residual = samples[:10] - mean
    exact = (
        -np.einsum("ni,ij,nj->n", residual, precision, residual) / 2 - np.linalg.slogdet(2 * np.pi * covariance)[1] / 2
    )
    # The flow's densities, of which six are summed, end in N(0, I), which is not quite p_T.
    np.testing.assert_allclose(found, exact, atol=0.1)
    assert posterior.normaliser.error < 0.05
    assert posterior.normaliser.effective_size > 250
    np.testing.assert_allclose(posterior.map(), mean, atol=0.01)
    with pytest.raises(UserError, match="has its observations already"):
        posterior.sample(2, x=x[0])
    with pytest.raises(UserError, match="of a run with a box"):
        run.posterior(x, prior="uniform")
    with pytest.raises(UserError, match=r"a Gaussian prior is \(mean, covariance\)"):
        run.posterior(x, prior=(np.zeros(3), np.eye(3)))


def test_a_uniform_prior_in_a_box_is_a_gaussian_in_model_units() -> None:
    low, high = np.array([-1.0, 5.0]), np.array([1.0, 9.0])
    theta = np.random.default_rng(0).uniform(low, high, (400, 2))
    settings = {"model.width": 8, "model.num_blocks": 1, "training.sample_every": 0}
    run = score_sde.fit(theta, condition=theta + 1, box=(low, high), num_steps=1, settings=settings)
    prior = known_prior(run._experiment, "uniform")
    assert prior is not None
    y = torch.tensor(np.random.default_rng(1).uniform(low, high, (50, 2)))
    units, t = run.dataset.units, torch.tensor(prior.sde.t_min)
    assert isinstance(units, Standardised)
    found = prior.log_prob(units.encode(y).double(), t) + units.log_scales(y)
    np.testing.assert_allclose(found, -math.log(2 * 4), atol=1e-3)
    # Composed samples stay in the box, and outside there is nothing.
    several = run.posterior(theta[:2], prior="uniform")
    samples = several.sample(50, seed=0, num_steps=5)
    assert ((samples >= low) & (samples <= high)).all()
    assert several.log_prob([[0.0, 4.9]], rtol=0.1, atol=0.1).tolist() == [-math.inf]
    with pytest.raises(UserError, match="no Gaussian prior"):
        run.posterior(theta[:2], prior=(np.zeros(2), np.eye(2)))
