"""Solvers know how many network calls they make."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.control import Controlled, Masked, Projection, RePaint
from score_sde.sde import VESDE, VPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.standard_normal import StandardNormal

KEEP = Masked(torch.tensor([True, False]))
Y = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("name", "options", "calls"),
    [
        ("default", {"num_steps": 7}, 7),
        ("ddim", {"num_steps": 7}, 7),
        ("ddim", {"num_steps": 7, "denoise": False}, 6),
        ("dpmpp_2m", {"num_steps": 7}, 7),
        ("heun", {"num_steps": 7}, 13),
        ("dpm_3", {"num_steps": 7}, 19),
        ("pc", {"num_steps": 7}, 13),
        ("pc", {"num_steps": 7, "corrector_steps": 3, "denoise": False}, 24),
        ("pc", {"num_steps": 7, "corrector": "none"}, 7),
        ("sde", {"num_steps": 7}, 13),
        ("sde", {"num_steps": 7, "method": "euler"}, 7),
        ("ode", {"method": "rk4", "num_steps": 7}, 25),
        ("ode", {"method": "adams", "num_steps": 7}, 8),
        ("sde", {"adaptive": True}, None),
        ("adaptive_sde", {}, None),
        ("ode", {}, None),
    ],
    ids=str,
)
def test_calls(name: str, options: dict[str, Any], calls: int | None) -> None:
    for sde in (VPSDE(), VESDE()):
        solver = get_solver(name, **options)
        assert solver.calls(sde) == calls
        assert solver.chooses_steps == (calls is None)
        if calls is not None:
            assert solver(StandardNormal(sde), sde.prior_sample((2, 2), seeds=range(2)), seeds=range(2)).nfe == calls


def test_calls_of_a_solver_with_a_control_are_those_of_its_path() -> None:
    model, x_T = StandardNormal(VPSDE()), VPSDE().prior_sample((2, 2), seeds=range(2))
    for control, calls in ((Projection(KEEP, Y), 9), (RePaint(KEEP, Y, jump=2, repeats=3), 27)):
        controlled = Controlled(get_solver("heun", num_steps=5), control)
        assert controlled.calls(model.sde) == calls == controlled(model, x_T, seeds=range(2)).nfe


def test_a_process_that_cannot_be_solved_says_so() -> None:
    with pytest.raises(UserError, match="log-SNR of VPSDE at t_min = 0 is not finite"):
        get_solver("ddim", num_steps=5, t_min=0.0).calls(VPSDE())
    with pytest.raises(UserError, match="take one of single steps"):
        Controlled(get_solver("dpmpp_2m", num_steps=5), Projection(KEEP, Y)).calls(VPSDE())
    with pytest.raises(UserError, match="this solver has no steps between which states can be changed"):
        get_solver("adaptive_sde").steps(StandardNormal(VPSDE()), torch.zeros(1, 2))
