"""Discrete ladders: their tables, their limits, and the processes that pass through them."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.sde import VESDE, VPSDE, DDPMLadder, NCSNLadder, cosine_betas, ddpm_betas, geometric_sigmas


def rungs(count: int) -> torch.Tensor:
    return torch.arange(count)


# The last rung is nothing but noise.
ENDS = torch.cat([ddpm_betas(100)[:-1], torch.ones(1)])


@pytest.mark.parametrize("betas", [ddpm_betas(1000), cosine_betas(50), torch.tensor([0.3, 0.01, 0.2]), ENDS])
def test_ddpm_ladder_has_the_cumulative_products_at_its_rungs(betas) -> None:
    ladder = DDPMLadder(betas)
    t = ladder.time(rungs(len(betas)))
    alpha_bar = torch.cumprod(1 - betas.double(), 0)
    torch.testing.assert_close(ladder.alpha(t) ** 2, alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(ladder.sigma(t) ** 2, 1 - alpha_bar, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(ladder.index(t), rungs(len(betas)).double())
    previous = torch.cat([torch.zeros(1, dtype=torch.float64), t[:-1]])[1:]
    torch.testing.assert_close(ladder.transition(previous, t[1:])[1], betas.double()[1:], rtol=1e-9, atol=0)


def test_published_end_of_ddpm_and_its_distance_from_vp() -> None:
    """At N = 1000 the last `alpha_bar` differs from VP's by 6.5%, so that one cannot stand for the other."""
    ladder = DDPMLadder(ddpm_betas(1000))
    end = torch.tensor(1.0, dtype=torch.float64)
    ratio = float((ladder.alpha(end) / VPSDE().alpha(end)) ** 2)
    assert ratio == pytest.approx(0.935, abs=0.001)


def test_ddpm_ladder_tends_to_vp() -> None:
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    errors = []
    for count in (500, 1000, 2000):
        ladder = DDPMLadder(ddpm_betas(count))
        errors.append(float((ladder.alpha(t).log() - VPSDE().alpha(t).log()).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.05)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(1, abs=0.05)


def test_geometric_ladder_is_ve_at_every_time() -> None:
    ladder, sde = NCSNLadder(geometric_sigmas(100)), VESDE()
    t = torch.linspace(0, 1, 57, dtype=torch.float64)
    torch.testing.assert_close(ladder.sigma(t), sde.sigma(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(ladder.diffusion(t[1:-1]), sde.diffusion(t[1:-1]), rtol=1e-9, atol=0)
    torch.testing.assert_close(ladder.sigma(ladder.time(rungs(100))), geometric_sigmas(100), rtol=1e-12, atol=0)


def test_betas_that_leave_no_variance_are_refused() -> None:
    with pytest.raises(UserError, match=r"from 0.01 to 2: take more rungs"):
        DDPMLadder(ddpm_betas(10))


def test_cosine_alpha_bar_is_nichols() -> None:
    """Equation 17 before the clipping of the last beta."""
    ladder = DDPMLadder(cosine_betas(1000))
    t = ladder.time(torch.tensor([0, 250, 499, 998]))

    def f(s: torch.Tensor) -> torch.Tensor:
        return torch.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    torch.testing.assert_close(ladder.alpha(t) ** 2, f(t) / f(torch.zeros_like(t)), rtol=1e-9, atol=1e-15)
