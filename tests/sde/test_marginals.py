"""Marginals: what follows from alpha and sigma, in float64 on the CPU, and cast once."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.sde import SDE, VESDE, VPSDE, DDPMLadder, NCSNLadder, SubVPSDE, ddpm_betas, geometric_sigmas
from score_sde.sde.truncated import Truncated

FLOAT = torch.float64


def test_vp_at_one_half() -> None:
    """`B(1/2) = 0.1 / 2 + 19.9 / 8 = 2.5375`."""
    here = VPSDE().at(0.5)
    alpha, sigma = math.exp(-2.5375 / 2), math.sqrt(1 - math.exp(-2.5375))
    expected = {
        "t": 0.5,
        "alpha": alpha,
        "sigma": sigma,
        "rho": sigma / alpha,
        "lam": math.log(alpha / sigma),
        "log_snr": 2 * math.log(alpha / sigma),
        "r": 1.0,
        "theta": math.asin(sigma),
    }
    for name, value in expected.items():
        found = getattr(here, name)
        assert (found.dtype, found.shape) == (FLOAT, ())
        assert float(found) == pytest.approx(value, rel=1e-14)


def test_subvp_and_ve() -> None:
    here = SubVPSDE().at(0.5)
    assert float(here.sigma) == pytest.approx(1 - math.exp(-2.5375), rel=1e-14)
    assert float(here.r) == pytest.approx(math.hypot(math.exp(-2.5375 / 2), 1 - math.exp(-2.5375)), rel=1e-14)
    here = VESDE(0.01, 100.0).at(torch.tensor([0.0, 0.25, 1.0]))
    assert here.rho.tolist() == pytest.approx([0.01, 0.1, 100.0], rel=1e-14)
    assert here.alpha.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT])
def test_times_of_any_dtype_are_made_float64_first(dtype: torch.dtype) -> None:
    t = torch.tensor([0.1, 0.7], dtype=dtype)
    here = VPSDE().at(t)
    assert here.t.dtype == here.alpha.dtype == FLOAT
    assert torch.equal(here.alpha, VPSDE().alpha(t.double()))


def test_values_are_cast_once_and_shaped_to_multiply_states() -> None:
    x = torch.ones(2, 3, 4)
    here = VPSDE().at(torch.tensor([0.1, 0.7], dtype=FLOAT))
    alpha, sigma = here.to(x)
    assert alpha.shape == sigma.shape == (2, 1, 1)
    assert torch.equal(alpha.flatten(), here.alpha.float())
    assert alpha.dtype == torch.float32
    assert VPSDE().at(0.1).to(x)[0].shape == ()


@pytest.mark.parametrize(
    "sde",
    [VPSDE(), SubVPSDE(), VESDE(), DDPMLadder(ddpm_betas(50)), Truncated(VPSDE(), 0.6)],
    ids=lambda sde: type(sde).__name__,
)
def test_marginals_by_half_log_snr_are_those_by_time(sde: SDE) -> None:
    there = sde.at(torch.linspace(0.1, 0.5, 7, dtype=FLOAT))
    back = sde.at_lambda(there.lam)
    for name in ("t", "alpha", "sigma", "rho", "lam"):
        torch.testing.assert_close(getattr(back, name), getattr(there, name), rtol=1e-10, atol=0)


def test_the_data_are_an_end_without_noise() -> None:
    ends = VPSDE().at(torch.tensor([1.0, 0.5], dtype=FLOAT)).and_data()
    assert len(ends) == 3
    assert (float(ends.alpha[2]), float(ends.sigma[2]), float(ends.rho[2])) == (1.0, 0.0, 0.0)
    assert float(ends[1].alpha) == float(VPSDE().at(0.5).alpha)


def test_ladders_say_that_they_are_some() -> None:
    for ladder in (DDPMLadder(ddpm_betas(50)), NCSNLadder(geometric_sigmas(10))):
        assert ladder.ladder is ladder
    assert VPSDE().ladder is None
