"""Posterior sampling: exact where it is said to be, and biased by what is said elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import dawsn

from score_sde.common.errors import UserError
from score_sde.control import DPS, MMPS, LinearOperator, Masked, Observation, PiGDM
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE, SubVPSDE
from score_sde.solvers import get_solver, log_likelihood
from tests.control.mixture import MIXTURE

FLOAT = torch.float64
MEAN, STD = torch.tensor([0.4, -0.3, 0.1], dtype=FLOAT), 0.7
A = torch.tensor([[1.0, 0.5, 0.0], [0.2, -0.4, 1.0]], dtype=FLOAT)
Y = torch.tensor([[0.3, -0.8]], dtype=FLOAT)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_pi_gdm_is_exact_for_an_isotropic_gaussian(sde, noise_std):
    """The score is that of the posterior, `N(m + G (y - A m), c^2 I - G A c^2)`, at every time."""
    prior = GaussianMixture(sde, torch.ones(1), MEAN[None], STD**2 * torch.eye(3, dtype=FLOAT)[None])
    gain = STD**2 * A.T @ torch.linalg.inv(STD**2 * A @ A.T + noise_std**2 * torch.eye(2, dtype=FLOAT))
    mean = MEAN + (Y - MEAN @ A.T) @ gain.T
    covariance = STD**2 * (torch.eye(3, dtype=FLOAT) - gain @ A)
    exact = GaussianMixture(sde, torch.ones(1), mean, 0.5 * (covariance + covariance.T)[None])
    observation = Observation(LinearOperator(lambda x: x @ A.T), Y.expand(4, 2), noise_std)
    controlled = PiGDM(prior, observation, data_std=STD)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=FLOAT)
    for t in torch.tensor([0.05, 0.3, 0.6, 1.0], dtype=FLOAT):
        torch.testing.assert_close(controlled.score(x, t), exact.score(x, t), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(controlled.denoise(x, t), exact.denoise(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_mmps_is_exact_for_any_gaussian(sde, noise_std):
    """The score is that of the posterior, `N(m + G (y - A m), C - G A C)`, at every time."""
    factor = torch.tensor([[0.9, 0.0, 0.0], [-0.5, 0.4, 0.0], [0.3, 0.2, 0.6]], dtype=FLOAT)
    prior_covariance = factor @ factor.T
    prior = GaussianMixture(sde, torch.ones(1), MEAN[None], prior_covariance[None])
    gain = (
        prior_covariance @ A.T @ torch.linalg.inv(A @ prior_covariance @ A.T + noise_std**2 * torch.eye(2, dtype=FLOAT))
    )
    covariance = prior_covariance - gain @ A @ prior_covariance
    mean = MEAN + (Y - MEAN @ A.T) @ gain.T
    exact = GaussianMixture(sde, torch.ones(1), mean, 0.5 * (covariance + covariance.T)[None])
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=FLOAT)
    # A function that is not said to be linear is taken by its derivative, and that is the same.
    for operator in (LinearOperator(lambda x: x @ A.T), lambda x: x @ A.T):
        controlled = MMPS(prior, Observation(operator, Y.expand(4, 2), noise_std))
        for t in torch.tensor([0.05, 0.3, 0.6, 1.0], dtype=FLOAT):
            torch.testing.assert_close(controlled.score(x, t), exact.score(x, t), rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(controlled.denoise(x, t), exact.denoise(x, t), rtol=1e-8, atol=1e-8)


def test_what_is_not_linear_is_taken_by_its_derivative():
    """Of `y = sin(a x_0) + s n` it is `cos(a D) a`; `D` and `Cov[x_0 | x_t]` are by Bayes' rule."""
    row, noise_std = torch.tensor([0.8, -0.6], dtype=FLOAT), 0.5
    y, x = torch.tensor([[0.3], [-0.9], [0.6]], dtype=FLOAT), MIXTURE.sample(3, 2)
    observation = Observation(lambda x: (x @ row[:, None]).sin(), y, noise_std)
    for t in torch.tensor([0.1, 0.4, 0.9], dtype=FLOAT):
        mean, covariance = MIXTURE.denoising_moments(VPSDE(), x, t)
        slope = (mean @ row).cos()[:, None] * row
        along = torch.einsum("bij,bj->bi", covariance, slope)
        residual = y - (mean @ row).sin()[:, None]
        for control, variance in (
            (DPS, noise_std**2),
            (MMPS, noise_std**2 + (along * slope).sum(1, keepdim=True)),
        ):
            expected = mean + along * residual / variance
            found = control(MIXTURE.model(VPSDE()), observation).denoise(x, t)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("noise_std", [0.5, 1.0, 2.0])
def test_the_bias_of_dps_on_a_gaussian(noise_std):
    """On N(0, 1) the flow is `dx/dB = (alpha^2 x - alpha y) / (2 s^2)`, `alpha^2 = exp(-B)`, and ends at

        x = exp(-1/(2 s^2)) x_T + y sqrt(2)/s dawsn(1/(sqrt(2) s)),

    with less spread than the posterior, `N(y / (1 + s^2), s^2 / (1 + s^2))`, and too far towards `y` for small `s`.
    """
    sde = VPSDE(beta_max=60.0)
    prior = GaussianMixture(sde, torch.ones(1), torch.zeros(1, 1, dtype=FLOAT), torch.ones(1, 1, 1, dtype=FLOAT))
    y, x_T = torch.tensor([[1.3], [1.3], [-0.4]], dtype=FLOAT), torch.tensor([[0.0], [1.0], [-0.7]], dtype=FLOAT)
    model = DPS(prior, Observation(Masked(torch.tensor([True])), y, noise_std))
    x = get_solver("ode", t_min=1e-6)(model, x_T).x
    spread = math.exp(-0.5 / noise_std**2)
    towards = math.sqrt(2) / noise_std * float(dawsn(1 / (math.sqrt(2) * noise_std)))
    torch.testing.assert_close(x, spread * x_T + towards * y, rtol=0, atol=1e-4)
    assert spread < noise_std / math.sqrt(1 + noise_std**2)


def test_what_cannot_be_is_refused():
    prior = GaussianMixture(VPSDE(), torch.ones(1), MEAN[None], torch.eye(3, dtype=FLOAT)[None])
    observation = Observation(Masked(torch.tensor([True, False, False])), torch.zeros(1, 3, dtype=FLOAT))
    with pytest.raises(UserError, match="give some, or use ΠGDM"):
        DPS(prior, observation)
    with pytest.raises(UserError, match="ΠGDM needs a LinearOperator, not just any function"):
        PiGDM(prior, Observation(torch.sin, torch.zeros(1, 3, dtype=FLOAT)))
    with pytest.raises(UserError, match="iterations must be at least 1"):
        MMPS(prior, observation, iterations=0)
    with pytest.raises(UserError, match="posterior sampling by DPS or ΠGDM gives no diffused density"):
        log_likelihood(PiGDM(prior, observation), torch.zeros(1, 3, dtype=FLOAT))
