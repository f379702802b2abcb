"""Solvers by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from errors import UserError, choose, nearest
from solvers.adaptive_sde import AdaptiveSDE
from solvers.named import FAST_SOLVERS
from solvers.ode import ODE
from solvers.predictor_corrector import PredictorCorrector
from solvers.reverse_sde import ReverseSDE
from solvers.solution import Solution

Solver = Callable[..., Solution]

SOLVERS: dict[str, Callable[..., Solver]] = {
    **FAST_SOLVERS,
    "adaptive_sde": AdaptiveSDE,
    "ode": ODE,
    "pc": PredictorCorrector,
    "sde": ReverseSDE,
}


def get_solver(name: str, **options: Any) -> Solver:
    """Build a solver: `get_solver("dpmpp_2m", num_steps=10)(model, x_T).x`.

    A solver is called as `solver(model, x_T, *, seeds=None, generator=None)`; it starts from `x_T` `(B, *dims)` at
    time `T`. Stochastic solvers take their noise from `seeds`, one an example, or draw these from `generator`.

    Args:
        name: a key of `SOLVERS`.
        options: the solver's own options; see its docstring.

    Raises:
        UserError: there is no such solver, or it has no such option.
    """
    solver = choose("solver", name, SOLVERS)
    known = inspect.signature(solver).parameters
    for option in options:
        if option not in known:
            raise UserError(
                f"solver {name!r} has no option {option!r}{nearest(option, known)}; it has: {', '.join(known)}"
            )
    return solver(**options)
