"""Solvers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from arguments import check_call, checked
from errors import choose
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


@checked
def get_solver(name: str, **options: Any) -> Solver:
    """Build a solver: `get_solver("dpmpp_2m", num_steps=10)(model, x_T).x`.

    A solver is called as `solver(model, x_T, *, seeds=None, generator=None)`; it starts from `x_T` `(B, *dims)` at
    time `T`. Stochastic solvers take their noise from `seeds`, one an example, or draw these from `generator`.

    Args:
        name: a key of `SOLVERS`.
        options: the solver's own options; see its docstring.

    Raises:
        UserError: there is no such solver, it has no such option, or one has the wrong type or is out of range.
    """
    solver = choose("solver", name, SOLVERS)
    return solver(**check_call(f"solver {name!r}", solver, (), options).arguments)
