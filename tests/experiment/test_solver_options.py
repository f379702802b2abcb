"""Keys of the section `sampling` are options of a solver, or known not to be; steps are of the solver asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from score_sde.configs import default
from score_sde.experiment import solver
from score_sde.experiment.editing import choose_solver
from score_sde.experiment.stages import Stage
from score_sde.solvers.registry import SOLVERS


def test_no_key_of_sampling_is_said_to_be_ignored_by_every_solver() -> None:
    keys = set(default.get_config().sampling) - set(solver._NOT_OPTIONS)
    unused = [key for key in keys if not any(key in solver.option_names(name) for name in SOLVERS)]
    assert unused == []


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        (None, {"edit.solver"}, (8, "karras", None)),
        (None, {"edit.solver", "sampling.grid"}, (8, "karras", None)),
        (None, {"sampling.solver", "edit.solver"}, (None, None, None)),
        ("dopri8", {"sampling.solver"}, (None, None, 9)),
        (None, {"sampling.solver", "sampling.num_steps"}, (8, None, 9)),
        (None, {"sampling.method"}, (8, "karras", 9)),
        ("rk4", {"sampling.solver", "edit.solver"}, (8, "karras", 9)),
    ],
)
def test_steps_of_another_solver_are_none_of_one_that_chooses_its_own(
    method: str | None, given: set[str], expected: tuple[int | None, str | None, int | None]
) -> None:
    config = default.get_config()
    config.sampling.update(solver="ode", method=method, num_steps=8, grid="karras")
    config.edit.update(solver="ode", num_steps=9)
    solver.drop_steps_of_another_solver(config, given)
    assert (config.sampling.num_steps, config.sampling.grid, config.edit.num_steps) == expected


@pytest.mark.parametrize(
    ("method", "expected"), [(None, (None, None)), ("dopri8", (None, None)), ("rk4", (8, "karras"))]
)
def test_edits_along_the_flow_have_the_steps_of_their_method(
    method: str | None, expected: tuple[int | None, str | None]
) -> None:
    config = default.get_config()
    config.sampling.update(method=method, num_steps=8, grid="karras")
    config.edit.task = "encode"
    choose_solver(config)
    assert (config.sampling.num_steps, config.sampling.grid) == expected


def test_other_edits_by_adaptive_steps_have_no_grid_of_samples() -> None:
    config = default.get_config()
    config.sampling.update(num_steps=8, grid="karras")
    config.edit.update(task="sdedit", solver="ode")
    choose_solver(config)
    assert (config.sampling.solver, config.sampling.num_steps, config.sampling.grid) == ("ode", None, None)


def test_stages_of_a_cascade_likewise() -> None:
    stage = Stage("glyphs_16", Path("nowhere"), "cascades/glyphs_16", [("sampling.solver", "ode")])
    assert stage.configuration().sampling.num_steps is None
