"""What a comparison runs: each solver at the settings that meet the budgets.

A budget is a number of network calls a sample. How many a solver makes in `num_steps` steps, it says itself: a step is
one call to some solvers, two or three to others, and correctors and denoising add theirs. Of all `num_steps` within the
budget the largest is taken. Solvers whose steps are adaptive cannot meet a budget; they are run at a few tolerances,
`rtol = atol`, or at the one given.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from score_sde.common.errors import UserError, choose
from score_sde.sde import SDE
from score_sde.solvers import SOLVERS, Solver, get_solver

# Adaptive steps are run at these tolerances. With noise of order 1/2 tighter ones would take thousands of calls.
TOLERANCES = (1e-2, 1e-4)
_TOLERANCES_WITH_NOISE = {"adaptive_sde": (0.1, 0.02), "sde": (0.1, 0.02)}

# Some options tell the points of one line from each other; others (files) have no place in a label.
_NOT_IN_LABELS = ("num_steps", "rtol", "atol", "path", "table")


@dataclass(frozen=True)
class Run:
    """A run is a solver with all its options.

    Attributes:
        label: the solver's name, with the options that all its runs have in common.
        name: the solver's name.
        options: all options given.
        budget: network calls allowed; None where a tolerance decides.
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None = None

    def solver(self) -> Solver:
        """Make the solver itself."""
        return get_solver(self.name, **self.options)

    @property
    def setting(self) -> str:
        """The setting is what the budget or the sweep decided of the options, such as `num_steps=10`."""
        varied = ("num_steps", "rtol")
        return ", ".join(f"{name}={self.options[name]:g}" for name in varied if name in self.options)


def runs_within(
    name: str,
    options: Mapping[str, Any],
    budgets: Sequence[int],
    sde: SDE,
    shared: Mapping[str, Any] = MappingProxyType({}),
) -> list[Run]:
    """Return the runs of one solver: one a budget, or one a tolerance, or the one that `num_steps` or `rtol` fixes.

    A budget too small for the solver has no run. Options in `shared` are for any solver that has them.

    Raises:
        UserError: there is no such solver or option, or no budget is large enough.
    """
    parameters = inspect.signature(choose("solver", name, SOLVERS)).parameters
    given = ", ".join(f"{option}={value}" for option, value in options.items() if option not in _NOT_IN_LABELS)
    label = f"{name}({given})" if given else name
    options = {**{option: value for option, value in shared.items() if option in parameters}, **options}
    if "num_steps" in options or "rtol" in options:
        get_solver(name, **options)
        return [Run(label, name, options, _calls(name, options, sde) if "num_steps" in options else None)]
    adaptive = _is_adaptive(name, options)
    get_solver(name, **options, **({"num_steps": max(budgets)} if "num_steps" in parameters and not adaptive else {}))
    if adaptive:
        tolerances = _TOLERANCES_WITH_NOISE.get(name, TOLERANCES)
        return [Run(label, name, {"atol": value, **options, "rtol": value}) for value in tolerances]
    runs = []
    for budget in sorted(budgets):
        num_steps = most_steps(name, options, budget, sde)
        if num_steps is not None:
            runs.append(Run(label, name, {**options, "num_steps": num_steps}, budget))
    if not runs:
        raise UserError(f"solver {label!r} cannot do with {max(budgets)} network calls: allow more, or leave it out")
    return runs


def most_steps(name: str, options: Mapping[str, Any], budget: int, sde: SDE) -> int | None:
    """Return the largest `num_steps` with which a solver makes at most `budget` network calls, or None."""
    if _calls(name, {**options, "num_steps": budget}, sde) in range(1, budget + 1):
        return budget
    # A step makes at least one call, so that `too_many` steps are too many throughout.
    few, too_many = 0, budget
    while too_many - few > 1:
        middle = (few + too_many) // 2
        if _calls(name, {**options, "num_steps": middle}, sde) <= budget:
            few = middle
        else:
            too_many = middle
    return few if _calls(name, {**options, "num_steps": few}, sde) > 0 else None


def _is_adaptive(name: str, options: Mapping[str, Any]) -> bool:
    parameters = inspect.signature(SOLVERS[name]).parameters
    if "rtol" not in parameters or "adaptive" in parameters:
        return bool(options.get("adaptive", False))
    try:
        get_solver(name, **options)
    except UserError:
        # The solver `ode` has methods with fixed steps, which insist on num_steps.
        return False
    return True


def _calls(name: str, options: Mapping[str, Any], sde: SDE) -> int:
    """Count the network calls that a solver makes; return 0 if it cannot run with so few steps."""
    try:
        return get_solver(name, **options).calls(sde) or 0
    except UserError:
        return 0
