"""A grid says how many steps there are, and one step is one: the denoised mean of the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import SOLVERS, encode, get_solver, log_likelihood
from score_sde.solvers.grids import listed_times, number_of_times

FLOAT = torch.float64
GRID = [1.0, 0.5, 0.1]
SEEDS = range(3)
NAMED = [name for name in SOLVERS if name not in ("tuned", "adaptive_sde", "ode", "sde", "consistency")]
FLOWS = ("euler", "midpoint", "heun2", "heun3", "rk4", "adams")


def mixture(sde: SDE) -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=FLOAT)
    return GaussianMixture(sde, torch.tensor([0.4, 0.6]), means, 0.09 * torch.eye(2).expand(2, 2, 2))


MODEL = mixture(VPSDE())
X_T = MODEL.sde.prior_sample((3, 2), seeds=SEEDS, dtype=FLOAT)

WITH_A_GRID = [*((name, {}) for name in NAMED), *(("ode", {"method": method}) for method in FLOWS)]


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize(("name", "options"), WITH_A_GRID, ids=lambda case: str(case))
def test_a_grid_alone_is_its_number_of_steps(name: str, options: dict[str, Any], denoise: bool) -> None:
    """A denoising is one more step of a flow, which has one fewer than there are times."""
    options = {**options, "denoise": denoise}
    number = 3 if denoise or name != "ode" else 2
    both = get_solver(name, num_steps=number, grid=GRID, **options)(MODEL, X_T, seeds=SEEDS)
    for grid in (GRID, tuple(GRID), torch.tensor(GRID, dtype=FLOAT)):
        alone = get_solver(name, grid=grid, **options)(MODEL, X_T, seeds=SEEDS)
        assert torch.equal(alone.x, both.x)
        assert alone.nfe == both.nfe
    with pytest.raises(UserError, match=r"the grid has 3 times.* but num_steps is 4"):
        get_solver(name, num_steps=4, grid=GRID, **options)(MODEL, X_T, seeds=SEEDS)


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in NAMED if name != "default"),
        *(("sde", {"method": method}) for method in ("srk", "euler", "milstein")),
        *(("ode", {"method": method}) for method in (*FLOWS, "explicit_adams", "implicit_adams")),
    ],
    ids=lambda case: str(case),
)
def test_one_step_is_the_denoised_mean_of_the_start(name: str, options: dict[str, Any], sde: SDE) -> None:
    model, x_T = mixture(sde), sde.prior_sample((3, 2), seeds=SEEDS, dtype=FLOAT)
    mean = model.denoise(x_T, torch.tensor(sde.T, dtype=FLOAT))
    solution = get_solver(name, num_steps=1, **options)(model, x_T, seeds=SEEDS, trajectory=True)
    torch.testing.assert_close(solution.x, mean, rtol=0, atol=1e-10)
    assert solution.nfe == 1
    assert [float(state.t) for state in solution.trajectory] == [sde.T, 0.0]
    if name != "sde" and "adams" not in options.get("method", ""):
        listed = get_solver(name, grid=[sde.T], **options)(model, x_T, seeds=SEEDS)
        assert torch.equal(listed.x, solution.x)


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
def test_one_step_of_the_default_is_the_flow_of_a_gaussian(sde: SDE) -> None:
    """It does not denoise, but integrates to `sigma = 0`: `N(0, c^2 I)` exactly, in any number of steps."""
    model = GaussianMixture(sde, torch.ones(1), torch.zeros(1, 2, dtype=FLOAT), 0.25 * torch.eye(2)[None])
    x_T, here = sde.prior_sample((3, 2), seeds=SEEDS, dtype=FLOAT), sde.at(sde.T)
    exact = x_T * float(0.5 / (0.25 * here.alpha**2 + here.sigma**2).sqrt())
    for options in ({"num_steps": 1}, {"num_steps": 2}, {"grid": [sde.T]}):
        torch.testing.assert_close(get_solver("default", **options)(model, x_T).x, exact, rtol=1e-9, atol=0)


def test_likelihoods_and_latents_take_a_grid_alone() -> None:
    x = torch.tensor([[-1.0, 0.1], [1.2, 0.5]], dtype=FLOAT)
    grid = torch.linspace(1.0, 0.01, 8, dtype=FLOAT)
    numbers: tuple[dict[str, Any], ...] = ({"num_steps": 7}, {})
    for method in ("adams", "rk4"):
        both, alone = (
            log_likelihood(MODEL, x, divergence="exact", method=method, grid=grid, t_min=0.01, **number)
            for number in numbers
        )
        assert torch.equal(alone.log_prob, both.log_prob)
        assert alone.nfe == both.nfe == (8 if method == "adams" else 28)
        latents, expected = (encode(MODEL, x, method=method, grid=grid, **n) for n in ({}, {"num_steps": 7}))
        assert torch.equal(latents.x, expected.x)
    with pytest.raises(UserError, match="num_steps must be at least 1, not 0"):
        log_likelihood(MODEL, x, method="rk4", num_steps=0)
    with pytest.raises(UserError, match="the number of times in the grid must be at least 2, not 1"):
        log_likelihood(MODEL, x, method="rk4", grid=[1.0])


@pytest.mark.parametrize("name", [name for name in NAMED if name != "pc"])
def test_neither_is_refused(name: str) -> None:
    for options in ({}, {"grid": "karras"}):
        with pytest.raises(UserError, match="say how many steps: give num_steps, or the times as the grid"):
            get_solver(name, **options)


@pytest.mark.parametrize(("name", "options"), WITH_A_GRID, ids=lambda case: str(case))
def test_no_step_at_all_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be at least"):
        get_solver(name, num_steps=0, **options)
    if name != "default":
        with pytest.raises(UserError, match="must be at least 2, not 1"):
            get_solver(name, grid=[1.0], denoise=False, **options)


def test_the_predictor_corrector_has_a_number_of_its_own() -> None:
    assert get_solver("pc").number_of_times == 1000  # type: ignore[attr-defined]
    assert get_solver("pc", grid=GRID).number_of_times == 3  # type: ignore[attr-defined]


def test_how_many_times_a_grid_lists() -> None:
    assert [listed_times(grid) for grid in (None, "karras", GRID, torch.tensor(GRID))] == [None, None, 3, 3]
    assert number_of_times(7, "karras") == 7
    assert number_of_times(None, GRID) == 3
