"""Predictors against the published rules on DDPM's and NCSN's ladders."""

from __future__ import annotations

import pytest
import torch

from score_sde.sde import VESDE, VPSDE, DDPMLadder, NCSNLadder, SubVPSDE, cosine_betas, ddpm_betas, geometric_sigmas
from score_sde.solvers.stochastic.predictors import ancestral, euler_maruyama, reverse_diffusion

RUNGS = torch.arange(1, 100)


def close(actual, expected):
    # The largest clipped cosine beta is 0.999, so relative errors in 1 - alpha_bar stay near rounding.
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("betas", [ddpm_betas(100), cosine_betas(100), ddpm_betas(1000)[:100]])
def test_on_ddpms_ladder(betas):
    ladder = DDPMLadder(betas)
    t, s, beta = ladder.time(RUNGS), ladder.time(RUNGS - 1), betas[1:]
    alpha_bar = torch.cumprod(1 - betas, 0)

    published = reverse_diffusion(ladder, t, s)
    close(published.a, 2 - torch.sqrt(1 - beta))
    close(published.b, beta)
    close(published.c, torch.sqrt(beta))

    posterior = ancestral(ladder, t, s)
    close(posterior.a, 1 / torch.sqrt(1 - beta))
    close(posterior.b, beta / torch.sqrt(1 - beta))
    close(posterior.c**2, beta * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]))


def test_on_ncsns_ladder():
    sigmas = geometric_sigmas(100)
    ladder = NCSNLadder(sigmas)
    t, s = ladder.time(RUNGS), ladder.time(RUNGS - 1)
    difference = sigmas[1:] ** 2 - sigmas[:-1] ** 2
    for step, squared_noise in [
        (reverse_diffusion(ladder, t, s), difference),
        (ancestral(ladder, t, s), sigmas[:-1] ** 2 * difference / sigmas[1:] ** 2),
    ]:
        close(step.a, torch.ones_like(difference))
        close(step.b, difference)
        close(step.c**2, squared_noise)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
def test_ancestral_is_the_posterior_given_the_denoised_mean(sde):
    """`p(x_s | x_t, x_0)` by Bayes' rule, with `x_0 = (x + sigma^2 score) / alpha`."""
    t, s = torch.linspace(0.3, 1.0, 8, dtype=torch.float64), torch.linspace(0.01, 0.9, 8, dtype=torch.float64)
    alpha_ts, variance = sde.transition(s, t)
    precision = 1 / sde.sigma(s) ** 2 + alpha_ts**2 / variance
    of_x_0 = sde.alpha(s) / sde.sigma(s) ** 2 / precision
    step = ancestral(sde, t, s)
    close(step.a, alpha_ts / variance / precision + of_x_0 / sde.alpha(t))
    close(step.b, of_x_0 * sde.sigma(t) ** 2 / sde.alpha(t))
    close(step.c**2, 1 / precision)


def test_euler_maruyama_has_the_papers_coefficients():
    t, h = torch.linspace(0.1, 1.0, 10, dtype=torch.float64), 0.01
    beta = 0.1 + 19.9 * t
    step = euler_maruyama(VPSDE(0.1, 20.0), t, t - h)
    close(step.a, 1 + 0.5 * beta * h)
    close(step.b, beta * h)
    close(step.c, torch.sqrt(beta * h))
