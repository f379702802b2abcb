"""Straightness against its integral for Gaussians, whose trajectories are known."""

from __future__ import annotations

import pytest
import torch

from score_sde import VESDE, VPSDE, GaussianMixture, RectifiedFlow
from score_sde.evaluation.samples.straightness import straightness
from score_sde.sde import SDE
from tests.transported import Transported, latents

STD = 0.5


def gaussian(sde: SDE) -> GaussianMixture:
    """Return the model of `N(0, s^2 I)` in two dimensions."""
    return GaussianMixture(sde, torch.ones(1), torch.zeros(1, 2), STD**2 * torch.eye(2)[None]).double()


def exact(sde: SDE) -> float:
    """Return `S` of `N(0, s^2)`: a trajectory is `u = q z`, `q^2 = (1 - tau)^2 s^2 + tau^2`."""
    here = sde.at(torch.tensor([sde.t_min, sde.T], dtype=torch.float64))
    low, high = (here.sigma / (here.alpha + here.sigma)).tolist()
    tau = torch.linspace(low, high, 200_001, dtype=torch.float64)
    q = torch.sqrt((1 - tau) ** 2 * STD**2 + tau**2)
    line = (q[-1] - q[0]) / (high - low)
    slope = (tau - (1 - tau) * STD**2) / q
    return float(torch.trapezoid((slope - line) ** 2, tau) / ((high - low) * line**2))


@pytest.mark.parametrize("sde", [RectifiedFlow(), VPSDE(), VESDE(sigma_max=5.0)], ids=lambda sde: type(sde).__name__)
def test_trajectories_of_a_gaussian_bend_as_their_formula_says(sde):
    x_T = sde.prior_sample((8, 2), seeds=range(8), dtype=torch.float64)
    error = [abs(straightness(gaussian(sde), x_T, num_steps=n) / exact(sde) - 1) for n in (80, 160)]
    assert error[1] < 3e-3
    # Second order: of the rule and of the solver.
    assert error[1] < 0.27 * error[0]


def test_straight_lines_have_none():
    model = Transported(RectifiedFlow())
    assert straightness(model, latents(model)[0]) < 1e-20
