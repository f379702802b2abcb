"""Latents and SDEdit against closed forms of a Gaussian."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.control import noised, slerp, varied
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE
from score_sde.sde.truncated import Truncated
from score_sde.solvers import encode, get_solver

FLOAT = torch.float64
MEAN, STD = torch.tensor([0.5, -1.0], dtype=FLOAT), torch.tensor([0.3, 1.2], dtype=FLOAT)


def gaussian(sde: SDE) -> GaussianMixture:
    return GaussianMixture(sde, torch.ones(1), MEAN[None], torch.diag(STD**2)[None])


def test_slerp_on_a_circle():
    """Between two points of a circle, by equal angles; between vectors of other lengths, these are blended likewise."""
    a, b = torch.tensor([[1.0, 0.0]], dtype=FLOAT), torch.tensor([[0.0, 1.0]], dtype=FLOAT)
    for share in (0.0, 0.25, 0.5, 1.0):
        angle = share * math.pi / 2
        expected = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=FLOAT)
        torch.testing.assert_close(slerp(a, b, torch.tensor(share)), expected)
        torch.testing.assert_close(slerp(2 * a, 3 * b, torch.tensor(share)), expected * torch.tensor([2.0, 3.0]))
    shares = torch.tensor([0.0, 0.5], dtype=FLOAT)
    rows = slerp(a.expand(2, 2), b.expand(2, 2), shares)
    torch.testing.assert_close(rows[1], torch.full((2,), math.sqrt(0.5), dtype=FLOAT))
    # Parallel ones: the straight line; pictures: all pixels are one vector.
    torch.testing.assert_close(slerp(a, 3 * a, torch.tensor(0.25)), 1.5 * a)
    pictures = slerp(a.reshape(1, 1, 1, 2), b.reshape(1, 1, 1, 2), torch.tensor(0.5))
    torch.testing.assert_close(pictures.flatten(), rows[1])


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
def test_temperature_of_latents(sde):
    """The flow of a Gaussian keeps `(x - alpha m) / sqrt(alpha^2 s^2 + sigma^2)`."""
    model, tau = gaussian(sde), 0.6
    x = torch.tensor([[0.7, 0.4], [0.1, -2.0]], dtype=FLOAT)
    latents = encode(model, x).x
    back = get_solver("ode", denoise=False)(model, tau * latents).x
    ends = torch.tensor([sde.T, sde.t_min], dtype=FLOAT)
    (alpha_T, alpha), (sigma_T, sigma) = sde.alpha(ends), sde.sigma(ends)
    std_T, std = torch.sqrt((alpha_T * STD) ** 2 + sigma_T**2), torch.sqrt((alpha * STD) ** 2 + sigma**2)
    expected_latents = alpha_T * MEAN + std_T / std * (x - alpha * MEAN)
    torch.testing.assert_close(latents, expected_latents, rtol=1e-5, atol=1e-5)
    expected = alpha * MEAN + std / std_T * (tau * expected_latents - alpha_T * MEAN)
    torch.testing.assert_close(back, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_sdedit(sde, strength):
    """A picture with noise, and the flow from there: each coordinate is shrunk towards the mean by a known factor."""
    model = gaussian(sde)
    x_0 = torch.tensor([[1.0, 1.0], [0.0, -3.0], [1.0, 1.0]], dtype=FLOAT)
    until, x = noised(model, x_0, strength, seeds=[4, 5, 6])
    _, again = noised(model, x_0[1:2], strength, seeds=[5])
    assert torch.equal(again, x[1:2])
    alpha, sigma = (value(torch.tensor(strength, dtype=FLOAT)) for value in (sde.alpha, sde.sigma))
    noise = (x - alpha * x_0) / sigma
    assert float((noise[0] - noise[2]).abs().min()) > 1e-3
    edited = get_solver("ode", denoise=False)(until, x).x
    end = torch.tensor(sde.t_min, dtype=FLOAT)
    std = torch.sqrt((alpha * STD) ** 2 + sigma**2)
    std_end = torch.sqrt((sde.alpha(end) * STD) ** 2 + sde.sigma(end) ** 2)
    expected = sde.alpha(end) * MEAN + std_end / std * (x - alpha * MEAN)
    torch.testing.assert_close(edited, expected, rtol=1e-5, atol=1e-5)


# Solvers that begin at a time, with the steps after which they are this exact, and whether they add noise of their own.
BEGINNERS: dict[str, tuple[dict[str, Any], bool]] = {
    "default": ({"num_steps": 40}, False),
    "ddim": ({"num_steps": 400}, False),
    "heun": ({"num_steps": 60}, False),
    "dpmpp_2m": ({"num_steps": 100}, False),
    "unipc": ({"num_steps": 40}, False),
    "ode": ({}, False),
    "dpmpp_2s_sde": ({"num_steps": 40}, True),
    "pc": ({"num_steps": 100, "corrector": "none"}, True),
}


@pytest.mark.parametrize("solver", BEGINNERS)
def test_the_distribution_after_sdedit(solver):
    r"""Of data `N(m, s^2)` and a picture `u`, noised to `x_t = alpha u + sigma eps`, with `v = alpha^2 s^2 + sigma^2`:

    by the flow           x_0 = m + s / sqrt(v) (x_t - alpha m),          mean m + alpha s / sqrt(v) (u - m)
    by the reverse SDE    x_0 | x_t ~ N(m + alpha s^2 / v (x_t - alpha m), s^2 sigma^2 / v)

    """
    options, with_noise = BEGINNERS[solver]
    count, strength, sde = 800, 0.4, VPSDE()
    model, picture = gaussian(sde), torch.tensor([1.5, 1.0], dtype=FLOAT)
    until, x = noised(model, picture.expand(count, 2), strength, seeds=range(count))
    edited = get_solver(solver, **options)(until, x, seeds=range(count)).x
    t = torch.tensor(strength, dtype=FLOAT)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    total = alpha**2 * STD**2 + sigma**2
    gain = alpha * STD**2 / total if with_noise else STD / total.sqrt()
    mean = MEAN + gain * alpha * (picture - MEAN)
    variance = gain**2 * sigma**2 + (STD**2 * sigma**2 / total if with_noise else 0)
    # Four standard errors, and the solver's own.
    assert ((edited.mean(0) - mean).abs() < 4 * (variance / count).sqrt() + 0.01).all()
    assert ((edited.var(0) / variance - 1).abs() < 4 * (2 / count) ** 0.5 + 0.05).all()
    if not with_noise:
        torch.testing.assert_close(edited, MEAN + gain * (x - alpha * MEAN), rtol=0, atol=0.02)


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), RectifiedFlow()], ids=lambda sde: type(sde).__name__)
def test_strengths_of_sdedit_lead_from_the_picture_to_plain_samples(sde):
    model, picture = gaussian(sde), torch.tensor([[1.5, 1.0], [0.2, -2.0]], dtype=FLOAT)
    for strength in (0.01, 0.003):
        until, x = noised(model, picture, strength, seeds=[3, 4])
        sigma = float(sde.sigma(torch.tensor(strength, dtype=FLOAT)))
        assert float((get_solver("heun", num_steps=5)(until, x).x - picture).abs().max()) < 5 * max(sigma, 1e-3)
    x_T = sde.prior_sample((2, 2), seeds=[3, 4], dtype=FLOAT)
    for name in ("default", "dpmpp_2s_sde"):
        solver = get_solver(name, num_steps=8)
        plain = solver(model, x_T, seeds=[3, 4]).x
        whole, start = noised(model, picture, 1.0, seeds=[3, 4])
        assert torch.equal(solver(whole, start, seeds=[3, 4]).x, plain)
        # The same noise, a little less of it: nearly that sample, but for what is left of the picture.
        until, start = noised(model, picture, 0.999, seeds=[3, 4])
        left = float(sde.alpha(torch.tensor(0.999, dtype=FLOAT))) / sde.prior_std
        assert float((solver(until, start, seeds=[3, 4]).x - plain).abs().max()) < 8 * left + 0.15


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
def test_variations_of_a_gaussian(sde):
    """Latents are standardised data; what they are mixed with is the prior, and `sqrt(1 - s^2)` is left of them."""
    count, strength = 2000, 0.6
    model, x = gaussian(sde), torch.tensor([[1.5, 1.0]], dtype=FLOAT)
    latents = encode(model, x).x
    changed = varied(sde, latents.expand(count, 2), strength, seeds=range(count))
    back = get_solver("ode", denoise=False)(model, changed).x
    alpha_T = sde.alpha(torch.tensor(sde.T, dtype=FLOAT))
    std_T = torch.sqrt((alpha_T * STD) ** 2 + sde.sigma(torch.tensor(sde.T, dtype=FLOAT)) ** 2)
    kept = math.sqrt(1 - strength**2)
    mean = MEAN + kept * (x[0] - MEAN) + STD / std_T * (kept - 1) * alpha_T * MEAN
    std = strength * STD / std_T * sde.prior_std
    assert ((back.mean(0) - mean).abs() < 4 * std / count**0.5 + 2e-3).all()
    assert ((back.std(0) / std - 1).abs() < 4 / (2 * count) ** 0.5 + 1e-2).all()
    # At the ends: the latent itself, and the prior's sample, to the last bit.
    assert torch.equal(varied(sde, latents, 0.0, seeds=[7]), latents)
    assert torch.equal(varied(sde, latents, 1.0, seeds=[7]), sde.prior_sample((1, 2), seeds=[7], dtype=FLOAT))
    with pytest.raises(UserError, match=r"strength must be at most 1, not 1\.5"):
        varied(sde, latents, 1.5)


def test_a_truncated_process_is_the_process():
    sde, cut = VPSDE(), Truncated(VPSDE(), 0.5)
    t = torch.linspace(0.01, 0.5, 7, dtype=FLOAT)
    torch.testing.assert_close(cut.diffusion(t), sde.diffusion(t))
    torch.testing.assert_close(cut.time_at_log_snr(sde.log_snr(t)), t)
    assert float(cut.time_at_log_snr(torch.tensor(-9.0))) == 0.5
    assert cut.prior_std == pytest.approx(float(sde.sigma(torch.tensor(0.5, dtype=FLOAT))))
    for wrong in (0.0, 1.5):
        with pytest.raises(UserError, match="the time to start from must lie between"):
            Truncated(sde, wrong)
