"""A trajectory has the solver's own states, with their times and what the model answered there, and costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.control import Controlled, Masked, Projection
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import SOLVERS, Solution, State, get_solver
from score_sde.solvers.fast.default import recommended
from score_sde.solvers.fast.thresholding import static_threshold
from score_sde.solvers.grids import time_grid

# torchdiffeq hands min_step to all of scipy's solvers.
pytestmark = pytest.mark.filterwarnings("ignore:The following arguments have no effect")

FLOAT = torch.float64
SEEDS = range(3)
# Decreasing times, such as no named grid has.
GRID = [1.0, 0.7, 0.45, 0.2, 0.05]
N = len(GRID)
TABLE = recommended(grid=GRID).table(VPSDE())

HAVE_NO_GRID = ("tuned", "ode", "sde", "adaptive_sde", "consistency")
# Every solver that steps through given times, with the times of its states.
FIXED: list[tuple[str, dict[str, Any]]] = [
    *((name, {"num_steps": N, "grid": GRID}) for name in SOLVERS if name not in HAVE_NO_GRID),
    ("tuned", {"table": TABLE}),
    ("pc", {"num_steps": N, "grid": GRID, "corrector": "none"}),
    ("pc", {"num_steps": N, "grid": GRID, "corrector_steps": 3}),
    ("ode", {"num_steps": N, "grid": GRID, "method": "euler"}),
    ("ode", {"num_steps": N, "grid": GRID, "method": "midpoint"}),
    ("ode", {"num_steps": N, "grid": GRID, "method": "heun3"}),
    ("ode", {"num_steps": N, "grid": GRID, "method": "rk4"}),
    ("ode", {"num_steps": N, "grid": GRID, "method": "adams"}),
]
# Those that have their own.
OWN: list[tuple[str, dict[str, Any]]] = [
    ("default", {"num_steps": 6}),
    ("sde", {"num_steps": 6}),
    ("sde", {"num_steps": 6, "method": "euler"}),
    ("sde", {"num_steps": 6, "method": "milstein"}),
    ("ode", {"num_steps": 6, "method": "explicit_adams"}),
    ("ode", {"num_steps": 6, "method": "implicit_adams", "options": {"max_iters": 40}}),
]
ADAPTIVE: list[tuple[str, dict[str, Any]]] = [
    ("adaptive_sde", {"rtol": 0.5, "atol": 0.5}),
    *(
        ("ode", {"method": method, "rtol": 1e-2, "atol": 1e-2})
        for method in ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "adaptive_adams")
    ),
    ("ode", {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3, "per_example": False}),
    ("ode", {"method": "bosh3", "rtol": 1e-3, "atol": 1e-3, "per_example": False}),
    *(
        ("ode", {"method": "scipy_solver", "rtol": 1e-3, "atol": 1e-3, "options": {"solver": solver}})
        for solver in ("LSODA", "BDF", "Radau", "RK45", "DOP853")
    ),
    ("sde", {"num_steps": 20, "t_min": 0.05, "adaptive": True, "rtol": 0.1, "atol": 0.1}),
    ("sde", {"num_steps": 20, "t_min": 0.05, "adaptive": True, "method": "euler", "rtol": 0.1, "atol": 0.1}),
]
# Not asked about where they arrive.
UNASKED = ("LSODA", "BDF")


def mixture(sde: SDE) -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=FLOAT)
    return GaussianMixture(sde, torch.tensor([0.4, 0.6]), means, 0.09 * torch.eye(2).expand(2, 2, 2))


def solved(name: str, options: dict[str, Any], counting: Callable, sde: SDE) -> tuple[Solution, Tensor, Any]:
    """The solution with its trajectory, after it was found to be that without, at no further call; and the start."""
    x_T, model = sde.prior_sample((3, 2), seeds=SEEDS, dtype=FLOAT), mixture(sde)
    plain_model, watched_model = counting(model), counting(model)
    plain = get_solver(name, **options)(plain_model, x_T, seeds=SEEDS)
    told: list[State] = []
    solution = get_solver(name, **options)(watched_model, x_T, seeds=SEEDS, callback=told.append, trajectory=True)
    assert torch.equal(solution.x, plain.x)
    assert solution.nfe == plain.nfe == len(plain_model.times) == len(watched_model.times)
    assert plain.trajectory == ()
    assert len(told) == len(solution.trajectory)
    assert all(a is b for a, b in zip(told, solution.trajectory, strict=True))
    return solution, x_T, model


def check(solution: Solution, x_T: Tensor, model: Any, options: dict[str, Any], denoised: bool = True) -> None:
    """First and last states, times that decrease, and what is denoised, at every state."""
    first, *inner, last = solution.trajectory
    assert first.x is x_T
    assert bool((first.t == model.sde.T).all())
    assert torch.equal(last.x, solution.x)
    if denoised:
        assert last.denoised is last.x
        assert torch.equal(last.t, torch.zeros((), dtype=FLOAT))
    for before, after in zip(solution.trajectory, solution.trajectory[1:], strict=False):
        assert after.t.dtype == FLOAT
        assert bool((after.t <= before.t).all() and (after.t < before.t).any())
    scipy = options.get("options", {}).get("solver")
    known = [first, inner[-1]] if scipy in UNASKED and denoised else [first] if scipy in UNASKED else [first, *inner]
    for state in known:
        assert state.denoised is not None
        # torchdiffeq rounds the time at which scipy starts to float32.
        atol = 1e-7 if state is first and scipy else 1e-10
        torch.testing.assert_close(state.denoised, model.denoise(state.x, state.t), rtol=0, atol=atol)


def ids(case: Any) -> str:
    return case if isinstance(case, str) else "-".join(str(v) for k, v in case.items() if k not in ("grid", "table"))


@pytest.mark.parametrize(("name", "options"), FIXED, ids=ids)
def test_states_of_given_times(name: str, options: dict[str, Any], counting) -> None:
    solution, x_T, model = solved(name, options, counting, VPSDE())
    check(solution, x_T, model, options)
    times = torch.stack([state.t for state in solution.trajectory])
    torch.testing.assert_close(times, torch.tensor([*GRID, 0.0], dtype=FLOAT), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), OWN, ids=ids)
@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
def test_states_of_own_times(name: str, options: dict[str, Any], sde: SDE, counting) -> None:
    solution, x_T, model = solved(name, options, counting, sde)
    check(solution, x_T, model, options)
    times = torch.stack([state.t for state in solution.trajectory])
    assert len(times) == 7
    if name == "default":
        # Equal steps of v, for data of standard deviation 0.5.
        rho = sde.at(times[:-1]).rho
        v = torch.log((rho + 5) / (rho + 0.01))
        torch.testing.assert_close(v.diff(), ((v[-1] - v[0]) / 5).expand(5), rtol=1e-9, atol=0)
        expected = times[:-1]
    elif name == "sde":
        expected = time_grid(sde, "uniform_log_snr", 6)
    else:
        # Equal steps of log(theta + 0.1).
        place = torch.log(sde.at(times[:-1]).theta + 0.1)
        torch.testing.assert_close(place.diff(), ((place[-1] - place[0]) / 5).expand(5), rtol=1e-9, atol=0)
        expected = times[:-1]
    torch.testing.assert_close(times[:-1], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("name", "options"), ADAPTIVE, ids=ids)
def test_states_of_adaptive_steps(name: str, options: dict[str, Any], counting) -> None:
    solution, x_T, model = solved(name, options, counting, VPSDE())
    check(solution, x_T, model, options)
    *_, arrived, last = solution.trajectory
    assert bool((arrived.t == options.get("t_min", model.sde.t_min)).all())
    torch.testing.assert_close(last.x, model.denoise(arrived.x, arrived.t), rtol=0, atol=0)
    # With a step for each example, an example that waits stays where it is.
    each = name == "adaptive_sde" or (name == "ode" and options.get("per_example", True) and "options" not in options)
    assert (arrived.t.ndim == 1 or len(solution.trajectory[1].t.shape) == 1) == each
    for before, after in zip(solution.trajectory[1:], solution.trajectory[2:-1], strict=False):
        waits = (before.t == after.t).reshape(-1, 1) & (after.t.ndim == 1)
        assert bool((before.x == after.x)[waits.expand(3, 2)].all())


def test_the_states_are_those_that_steps_were_accepted_at(counting) -> None:
    """On the same path, each state of adaptive Runge-Kutta steps lies where the flow, followed closely, passes."""
    sde = VPSDE()
    x_T, model = sde.prior_sample((1, 2), seeds=[0], dtype=FLOAT), mixture(sde)
    for options in ({}, {"per_example": False}, {"method": "scipy_solver", "options": {"solver": "BDF"}}):
        states = get_solver("ode", rtol=1e-5, atol=1e-5, **options)(model, x_T, trajectory=True).trajectory
        assert len(states) > 8
        for state in states[3:-1:8]:
            exact = get_solver("ode", t_min=float(state.t), denoise=False, rtol=1e-9, atol=1e-9)(model, x_T).x
            torch.testing.assert_close(state.x, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options"), [*FIXED[:3], ("pc", {"num_steps": N}), *OWN, *ADAPTIVE[:2], *ADAPTIVE[-6:]], ids=ids
)
def test_the_last_state_of_a_run_that_stops_is_not_denoised(name: str, options: dict[str, Any], counting) -> None:
    solution, x_T, model = solved(name, {**options, "denoise": False}, counting, VPSDE())
    check(solution, x_T, model, options, denoised=False)
    last = solution.trajectory[-1]
    assert last.denoised is None
    end = GRID[-1] if "grid" in options and name != "default" else options.get("t_min", model.sde.t_min)
    assert bool(((last.t - end).abs() < 1e-12).all())


def test_what_is_denoised_is_what_the_model_answered() -> None:
    """Not what a threshold makes of it; that is the solver's own."""
    sde = VPSDE()
    x_T, model = sde.prior_sample((3, 2), seeds=SEEDS, dtype=FLOAT), mixture(sde)
    solver = get_solver("ddim", num_steps=5, threshold=static_threshold(-0.5, 0.5))
    *states, last = solver(model, x_T, trajectory=True).trajectory
    for state in states:
        torch.testing.assert_close(state.denoised, model.denoise(state.x, state.t), rtol=0, atol=0)
    assert float(last.x.abs().max()) < 0.5 + 1e-12 < float(model.denoise(states[-1].x, states[-1].t).abs().max())


def test_a_corrector_alone_never_asks_where_it_starts() -> None:
    sde = VPSDE()
    solver = get_solver("pc", predictor="none", num_steps=4)
    states = solver(mixture(sde), sde.prior_sample((3, 2), seeds=SEEDS), seeds=SEEDS, trajectory=True).trajectory
    assert [state.denoised is None for state in states] == [True, True, True, False, False]


def test_a_control_between_steps_is_seen() -> None:
    sde = VPSDE()
    model, keep, y = mixture(sde), Masked(torch.tensor([True, False])), torch.full((3, 2), 0.3, dtype=FLOAT)
    solver = Controlled(get_solver("ddim", num_steps=5), Projection(keep, y))
    x_T = sde.prior_sample((3, 2), seeds=SEEDS, dtype=FLOAT)
    plain, solution = solver(model, x_T, seeds=SEEDS), solver(model, x_T, seeds=SEEDS, trajectory=True)
    assert torch.equal(plain.x, solution.x)
    assert len(solution.trajectory) == 6
    for state in solution.trajectory[:-1]:
        torch.testing.assert_close(state.denoised, model.denoise(state.x, state.t), rtol=0, atol=1e-10)
    assert solution.trajectory[-1].x is solution.x
    assert bool((solution.x[:, 0] == 0.3).all())


def test_a_callback_alone_keeps_nothing() -> None:
    sde, told = VPSDE(), []
    x_T = sde.prior_sample((3, 2), seeds=SEEDS)
    solution = get_solver("ddim", num_steps=3)(mixture(sde), x_T, callback=lambda state: told.append(float(state.t)))
    assert solution.trajectory == ()
    assert told == [*time_grid(sde, "uniform_log_snr", 3).tolist(), 0.0]
