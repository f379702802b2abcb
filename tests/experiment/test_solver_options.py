"""Every key of the section `sampling` is an option of a solver, or known not to be one."""

from __future__ import annotations

from score_sde.configs import default
from score_sde.experiment import solver
from score_sde.solvers.registry import SOLVERS


def test_no_key_of_sampling_is_said_to_be_ignored_by_every_solver() -> None:
    keys = set(default.get_config().sampling) - set(solver._NOT_OPTIONS)
    unused = [key for key in keys if not any(key in solver.option_names(name) for name in SOLVERS)]
    assert unused == []
