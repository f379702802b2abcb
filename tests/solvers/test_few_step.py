"""Solver `consistency` takes the jumps of a flow map: exact ones end where the flow does, whatever their number."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.control import Guided
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.grids import time_grid
from score_sde.solvers.standard_normal import StandardNormal
from tests.gaussian_flow import FLOAT, GaussianFlow

PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), RectifiedFlow()]
SEEDS = range(4)


def flow(sde: SDE) -> GaussianFlow:
    return GaussianFlow(sde, [0.3, -0.2, 0.1], [1.0, 0.1, 0.003]).requires_grad_(False)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(
    ("options", "calls"),
    [({"num_steps": 1}, 1), ({}, 2), ({"num_steps": 4}, 4), ({"num_steps": 5, "grid": "karras"}, 5)],
    ids=str,
)
def test_exact_jumps_end_at_the_closed_form(sde: SDE, options: dict[str, Any], calls: int) -> None:
    model, x_T = flow(sde), sde.prior_sample((4, 3), seeds=SEEDS, dtype=FLOAT)
    solver = get_solver("consistency", **options)
    solution = solver(model, x_T, trajectory=True)
    expected = model.exact(x_T, torch.tensor(sde.T, dtype=FLOAT), torch.tensor(0.0, dtype=FLOAT))
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=1e-10)
    assert (solution.nfe, solver.calls(sde)) == (calls, calls)
    for state in solution.trajectory:
        torch.testing.assert_close(state.x, model.exact(x_T, torch.tensor(sde.T), state.t), rtol=0, atol=1e-8)


def test_jumps_follow_the_probability_flow_of_the_score() -> None:
    model, x_T = flow(VPSDE()), VPSDE().prior_sample((4, 3), seeds=SEEDS, dtype=FLOAT)
    solution = get_solver("ode", rtol=1e-6, atol=1e-6, t_min=1e-5)(model, x_T)
    torch.testing.assert_close(get_solver("consistency")(model, x_T).x, solution.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_a_standard_normal_is_scaled(sde: SDE) -> None:
    x_T = sde.prior_sample((4, 3), seeds=SEEDS, dtype=FLOAT)
    x = get_solver("consistency", num_steps=3)(StandardNormal(sde), x_T).x
    torch.testing.assert_close(x, x_T / sde.at(sde.T).r, rtol=1e-12, atol=0)


def test_jumps_to_the_data_with_noise_anew() -> None:
    sde, grid = VPSDE(), [1.0, 0.5, 0.1]
    model, x_T = flow(sde), sde.prior_sample((4, 3), seeds=SEEDS, dtype=FLOAT)
    found = get_solver("consistency", grid=grid, renoise=True)(model, x_T, seeds=SEEDS)
    noise, zero, x = SampleNoise(SEEDS, "solver"), torch.tensor(0.0, dtype=FLOAT), x_T
    for k, t in enumerate(grid):
        x = model.exact(x, torch.tensor(t, dtype=FLOAT), zero)
        x = sde.perturb(x, noise.normal(x), torch.tensor(grid[k + 1])) if k < 2 else x
    torch.testing.assert_close(found.x, x, rtol=0, atol=1e-7)
    assert found.nfe == 3


def test_named_grids_give_way_to_zero_at_their_end_and_listed_ones_do_not() -> None:
    sde = VPSDE()
    model, x_T = flow(sde), sde.prior_sample((4, 3), seeds=SEEDS, dtype=FLOAT)
    states = get_solver("consistency", num_steps=4)(model, x_T, trajectory=True).trajectory
    assert [float(state.t) for state in states] == [*time_grid(sde, "log_angle", 5)[:-1].tolist(), 0]
    states = get_solver("consistency", grid=[1.0, 0.3])(model, x_T, trajectory=True).trajectory
    assert [float(state.t) for state in states] == [1, 0.3, 0]


def test_what_has_no_jumps_is_refused() -> None:
    sde = VPSDE()
    mixture = GaussianMixture(sde, torch.ones(1), torch.zeros(1, 3, dtype=FLOAT), torch.eye(3, dtype=FLOAT)[None])
    x_T = sde.prior_sample((4, 3), seeds=SEEDS, dtype=FLOAT)
    with pytest.raises(UserError, match="this model gives no jumps, but a score: train a flow map"):
        get_solver("consistency")(mixture, x_T)
    with pytest.raises(UserError, match="jumps cannot be guided, as by scale 2"):
        get_solver("consistency")(Guided(flow(sde), flow(sde), 2.0), x_T)
    plain = get_solver("consistency")(flow(sde), x_T).x
    assert torch.equal(get_solver("consistency")(Guided(flow(sde), flow(sde), 1.0), x_T).x, plain)
    with pytest.raises(UserError, match="num_steps must be at least 1, not 0"):
        get_solver("consistency", num_steps=0)
