"""Langevin at fixed t: its stationary law in closed form, and the bias of the published step size."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE, SubVPSDE
from score_sde.solvers import Solution, get_solver
from score_sde.solvers.stochastic.correctors import (
    corrector_step_size,
    langevin,
    step_size_annealed,
    step_size_of_time,
    step_size_published,
)

FLOAT = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE()]


def rules(sde, t, snr):
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return [
        (step_size_of_time, 2 * alpha * snr**2 * sigma**2),
        (step_size_annealed, 2 * snr**2 * sigma**2),
    ]


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("time", [0.05, 0.4, 1.0])
def test_the_stationary_variance_is_the_closed_form(sde, time, gaussian, affine_moments):
    """`x <- (1 - e/V) x + e m/V + sqrt(2 e) z` has the stationary mean `m` and variance `V / (1 - e / (2 V))`."""
    t = torch.tensor(time, dtype=FLOAT)
    mean, variance = gaussian.moments(sde, time)
    for snr in (0.04, 0.16, 0.4):
        for rule, epsilon in rules(sde, t, snr):

            def step(model, x, *, seeds, rule=rule, snr=snr):
                return Solution(langevin(model, x, t, SampleNoise(seeds, "solver"), rule, snr), 1)

            stationary = variance / (1 - epsilon / (2 * variance))
            new_mean, new_variance = affine_moments(step, gaussian.model(sde), mean, stationary)
            torch.testing.assert_close(new_mean, mean, rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(new_variance, stationary, rtol=1e-12, atol=0)
            # Nor is any other variance stationary: from the true one, a step adds e^2 / V.
            _, after_one = affine_moments(step, gaussian.model(sde), mean, variance)
            torch.testing.assert_close(after_one - variance, epsilon**2 / variance, rtol=1e-6, atol=1e-13)


def test_the_stationary_bias_falls_linearly_with_the_step(gaussian, affine_moments):
    """The stationary variance is found by iterating the moments of the code itself."""
    sde, time = VPSDE(), 0.3
    t = torch.tensor(time, dtype=FLOAT)
    mean, variance = gaussian.moments(sde, time)
    steps, biases = [], []
    for snr in (0.1, 0.2, 0.4):

        def ten_steps(model, x, *, seeds, snr=snr):
            return Solution(langevin(model, x, t, SampleNoise(seeds, "solver"), step_size_of_time, snr, 10), 10)

        # v -> gain v + offset, so its fixed point follows from two values.
        _, from_zero = affine_moments(ten_steps, gaussian.model(sde), mean, torch.zeros_like(variance))
        _, from_one = affine_moments(ten_steps, gaussian.model(sde), mean, torch.ones_like(variance))
        stationary = from_zero / (1 - (from_one - from_zero))
        biases.append(stationary - variance)
        steps.append(float(2 * sde.alpha(t) * snr**2 * sde.sigma(t) ** 2))
    for bias, step in zip(biases, steps, strict=True):
        torch.testing.assert_close(bias, torch.full_like(bias, step / 2), rtol=step, atol=0)
    slope = torch.log(biases[0] / biases[1]) / torch.log(torch.tensor(steps[0] / steps[1]))
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=0, atol=0.05)


@pytest.mark.usefixtures("one_generator")
def test_the_published_step_size_inflates_the_variance():
    """On N(0, I), d = 16, small steps tend to ((d + 2) / d)^2 = 1.266 times the variance; steps of time alone to 1."""
    dimension, count, snr = 16, 1000, 0.12
    zero = torch.zeros(1, dimension, dimension, dtype=FLOAT)
    model = GaussianMixture(VESDE(1e-3, 1.0), torch.ones(1, dtype=FLOAT), zero[:, 0], zero)
    t, noise = torch.tensor(1.0, dtype=FLOAT), SampleNoise(range(count), "solver")
    x = torch.randn(count, dimension, generator=torch.Generator().manual_seed(3), dtype=FLOAT)
    x = langevin(model, x, t, noise, step_size_published, snr, num_steps=150)
    variances = []
    for _ in range(10):
        x = langevin(model, x, t, noise, step_size_published, snr, num_steps=20)
        variances.append(float(x.square().mean()))
    # A step of epsilon = 2 r^2 adds half of that, as to any Langevin step; the sampling error is about 0.006.
    assert sum(variances) / len(variances) / (1 + snr**2) == pytest.approx((18 / 16) ** 2, abs=0.025)


def test_the_published_step_size_takes_norms_of_each_example():
    generator = torch.Generator().manual_seed(4)
    score, z = torch.randn(2, 3, 4, 5, generator=generator, dtype=FLOAT)
    sde, t = VPSDE(), torch.tensor([0.2, 0.5, 0.9], dtype=FLOAT)
    actual = step_size_published(sde, t, score, z, 0.16)
    for i in range(3):
        alpha_bar = sde.alpha(t[i]) ** 2
        expected = 2 * alpha_bar * (0.16 * torch.linalg.vector_norm(z[i]) / torch.linalg.vector_norm(score[i])) ** 2
        torch.testing.assert_close(actual[i], expected)


def test_correctors_by_name():
    assert corrector_step_size("langevin", "time") is step_size_of_time
    assert corrector_step_size("langevin", "published") is step_size_published
    assert corrector_step_size("ald", "time") is step_size_annealed
    assert corrector_step_size("none", "time") is None
    with pytest.raises(UserError, match=r"no corrector is called 'langvin'.*; there are: langevin, ald, none$"):
        get_solver("pc", corrector="langvin")
    with pytest.raises(UserError, match="'published' belongs to corrector 'langevin', not to 'ald'"):
        get_solver("pc", corrector="ald", step_size="published")
    with pytest.raises(UserError, match="there are: time, published"):
        get_solver("pc", step_size="norm")
