"""Derived drift and diffusion against the papers' closed forms, and the inverse of the log-SNR."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from score_sde.sde import VESDE, VPSDE, SubVPSDE
from tests.schedules import random_schedule

TIMES = torch.linspace(1e-3, 1.0, 41, dtype=torch.float64)
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), VPSDE(0.3, 12.0), VESDE(0.002, 80.0), random_schedule()]


def beta(t: torch.Tensor) -> torch.Tensor:
    return 0.1 + t * 19.9


def integral_beta(t: torch.Tensor) -> torch.Tensor:
    return 0.1 * t + 19.9 * t**2 / 2


def test_vp_is_equation_11() -> None:
    sde = VPSDE(0.1, 20.0)
    torch.testing.assert_close(sde.drift_coefficient(TIMES), -beta(TIMES) / 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(sde.diffusion_squared(TIMES), beta(TIMES), rtol=1e-10, atol=0)
    torch.testing.assert_close(sde.alpha(TIMES) ** 2 + sde.sigma(TIMES) ** 2, torch.ones_like(TIMES))


def test_subvp_is_equation_12() -> None:
    sde = SubVPSDE(0.1, 20.0)
    expected = beta(TIMES) * -torch.expm1(-2 * integral_beta(TIMES))
    torch.testing.assert_close(sde.drift_coefficient(TIMES), -beta(TIMES) / 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(sde.diffusion_squared(TIMES), expected, rtol=1e-10, atol=0)


def test_ve_is_equation_9() -> None:
    sde = VESDE(0.01, 50.0)
    sigma = 0.01 * 5000**TIMES
    torch.testing.assert_close(sde.drift_coefficient(TIMES), torch.zeros_like(TIMES), rtol=0, atol=1e-10)
    torch.testing.assert_close(sde.diffusion(TIMES), sigma * math.sqrt(2 * math.log(5000)), rtol=1e-10, atol=0)


def test_small_times_keep_their_digits() -> None:
    """At `t = 1e-5`, `1 - exp(-B)` in float64 would keep ten digits; `expm1` keeps all, and autograd follows."""
    t = torch.tensor(1e-5, dtype=torch.float64)
    b = 0.1e-5 + 9.95e-10
    assert float(SubVPSDE().sigma(t)) == pytest.approx(b - b**2 / 2 + b**3 / 6, rel=1e-14)
    assert float(SubVPSDE().diffusion_squared(t)) == pytest.approx(
        (0.1 + 19.9e-5) * (2 * b - 2 * b**2 + 4 / 3 * b**3), rel=1e-10
    )


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_variance_solves_its_differential_equation(sde) -> None:
    """The variance of `dx = f x dt + g dw` obeys `dV/dt = 2 f V + g^2`: a check that needs no closed form."""
    h = 1e-5
    t = TIMES[1:-1]
    variance = sde.sigma(t) ** 2
    slope = (sde.sigma(t + h) ** 2 - sde.sigma(t - h) ** 2) / (2 * h)
    expected = 2 * sde.drift_coefficient(t) * variance + sde.diffusion(t) ** 2
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_time_at_log_snr_inverts_and_differentiates(sde) -> None:
    log_snr = sde.log_snr(TIMES)
    torch.testing.assert_close(sde.time_at_log_snr(log_snr), TIMES, rtol=1e-13, atol=1e-15)
    inner = log_snr[1:-1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sde.time_at_log_snr(inner).sum(), inner)
    # d log_snr / dt = -g^2 / sigma^2
    t = TIMES[1:-1]
    torch.testing.assert_close(gradient, -(sde.sigma(t) ** 2) / sde.diffusion_squared(t), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_transitions_compose(sde) -> None:
    """Going 0 -> s -> t is going 0 -> t."""
    s, t = TIMES[:-1], TIMES[1:]
    scale, variance = sde.transition(s, t)
    torch.testing.assert_close(scale * sde.alpha(s), sde.alpha(t))
    torch.testing.assert_close(scale**2 * sde.sigma(s) ** 2 + variance, sde.sigma(t) ** 2)
    assert (variance > 0).all()


def test_prior_density_is_scipys() -> None:
    x = torch.randn(5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sde, std in ((VPSDE(), 1.0), (SubVPSDE(), 1.0), (VESDE(), 50.0)):
        expected = stats.norm.logpdf(std * x.numpy(), scale=std).sum((1, 2))
        torch.testing.assert_close(sde.prior_log_prob(std * x), torch.from_numpy(expected), rtol=1e-12, atol=0)


def test_reverse_family_interpolates_between_ode_and_sde() -> None:
    """`eta = 1` has Anderson's drift `f x - g^2 s` and the forward diffusion; `eta = 0` half the score, no noise."""
    sde, x, t = SubVPSDE(), torch.ones(41, 2, dtype=torch.float64), TIMES
    score = torch.full_like(x, 3.0)
    f, g2 = sde.drift_coefficient(t)[:, None], sde.diffusion(t)[:, None] ** 2
    torch.testing.assert_close(sde.reverse_drift(x, t, score, eta=1.0), f * x - g2 * score)
    torch.testing.assert_close(sde.reverse_drift(x, t, score, eta=0.0), f * x - g2 * score / 2)


def test_perturb_has_the_marginals_moments_and_the_states_dtype() -> None:
    sde = VPSDE()
    x_0, noise = torch.full((2, 3, 4), 2.0), torch.full((2, 3, 4), -1.0)
    t = torch.tensor([0.2, 0.7])
    x_t = sde.perturb(x_0, noise, t)
    expected = (2 * sde.alpha(t.double()) - sde.sigma(t.double())).float()
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(x_t[:, 0, 0], expected, rtol=1e-6, atol=0)
