"""Solvers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from score_sde.common.arguments import check_call, checked
from score_sde.common.errors import choose
from score_sde.solvers.base import Solver
from score_sde.solvers.fast.named import FAST_SOLVERS
from score_sde.solvers.few_step import FewStep
from score_sde.solvers.ode.solver import ODE
from score_sde.solvers.stochastic.adaptive_sde import AdaptiveSDE
from score_sde.solvers.stochastic.predictor_corrector import PredictorCorrector
from score_sde.solvers.stochastic.reverse_sde import ReverseSDE

SOLVERS: dict[str, Callable[..., Solver]] = {
    **FAST_SOLVERS,
    "adaptive_sde": AdaptiveSDE,
    "consistency": FewStep,
    "ode": ODE,
    "pc": PredictorCorrector,
    "sde": ReverseSDE,
}


@checked
def get_solver(name: str, **options: Any) -> Solver:
    """Build a solver: `get_solver("dpmpp_2m", num_steps=10)(model, x_T).x`.

    Args:
        name: a key of `SOLVERS`.
        options: the solver's own options; see its docstring.

    Raises:
        UserError: there is no such solver, it has no such option, or one has the wrong type or is out of range.
    """
    solver = choose("solver", name, SOLVERS)
    return solver(**check_call(f"solver {name!r}", solver, (), options).arguments)
