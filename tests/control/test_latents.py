"""Latents and SDEdit against closed forms of a Gaussian."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.control import noised, slerp
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE, SubVPSDE
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
