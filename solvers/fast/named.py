"""The named solvers of the fast family: a method, the output it is written in, and what is fixed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from score_sde.common.gaussian import Gaussian
from score_sde.sde import SDE
from score_sde.solvers.fast import methods, singlestep
from score_sde.solvers.fast.default import recommended
from score_sde.solvers.fast.recorder import Method, Prediction, method_table
from score_sde.solvers.fast.table import MOST_STEPS_OF_TABLE, Table
from score_sde.solvers.fast.table_solver import TableSolver
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.fast.tuned import tuned
from score_sde.solvers.grids import Grid, number_of_times, time_grid
from score_sde.solvers.options import check_between


def solver(
    method: Method,
    prediction: Prediction,
    default_grid: Grid = "uniform_log_snr",
    calls_a_step: int | None = None,
    **fixed: Any,
) -> Callable[..., TableSolver]:
    """Return the constructor of a named solver.

    Its options are `num_steps`, the number of grid times, which may be left out where the grid lists them; `grid` and
    `t_min` (see `time_grid`); `denoise`, whether to end at `sigma = 0` or stop at `t_min`; `threshold` (see
    `solvers.fast.thresholding`); then the method's own, but those that are `fixed`.
    """

    def build(
        num_steps: int | None = None,
        grid: Grid = default_grid,
        t_min: float | None = None,
        denoise: bool = True,
        threshold: Threshold | None = None,
        **own: Any,
    ) -> TableSolver:
        number = number_of_times(num_steps, grid)
        check_between("num_steps", number, 1 if denoise else 2, MOST_STEPS_OF_TABLE)

        def make_table(sde: SDE, gaussian: Gaussian | None) -> Table:
            times = time_grid(sde, grid, number, t_min)
            return method_table(method, sde, times, prediction=prediction, denoise=denoise, **{**fixed, **own})

        return TableSolver(make_table, threshold, calls_a_step)

    common = [p for p in inspect.signature(build).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [p for p in inspect.signature(method).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in fixed]
    build.__signature__ = inspect.Signature([*common, *own])  # type: ignore[attr-defined]
    hints = get_type_hints(method, include_extras=True) | get_type_hints(build, include_extras=True)
    build.__annotations__ = {p.name: hints[p.name] for p in (*common, *own)}
    build.__doc__ = method.__doc__
    return build


FAST_SOLVERS: dict[str, Callable[..., TableSolver]] = {
    "default": recommended,
    "tuned": tuned,
    "ddim": solver(methods.ddim, "noise", calls_a_step=1),
    "euler": solver(singlestep.heun, "noise", "karras", calls_a_step=1, second_order=False),
    "heun": solver(singlestep.heun, "noise", "karras", calls_a_step=2, second_order=True),
    "flow_heun": solver(singlestep.flow_heun, "data", "uniform_t", calls_a_step=2),
    # Noise prediction.
    "dpm_1": solver(methods.adams, "noise", calls_a_step=1, order=1, variable="log_snr", eta=0.0),
    "dpm_2": solver(singlestep.dpm_2, "noise", calls_a_step=2),
    "dpm_3": solver(singlestep.dpm_3, "noise", calls_a_step=3),
    "dpm_1_sde": solver(methods.adams, "noise", calls_a_step=1, order=1, variable="log_snr", eta=1.0),
    "dpm_2m_sde": solver(methods.adams, "noise", order=2, variable="log_snr", eta=1.0),
    "deis": solver(methods.adams, "noise", eta=0.0),
    "ipndm": solver(methods.ipndm, "noise", "karras"),
    # Data prediction.
    "dpmpp_1": solver(methods.adams, "data", calls_a_step=1, order=1, variable="log_snr", eta=0.0),
    "dpmpp_2s": solver(singlestep.dpmpp_2s, "data", calls_a_step=2, eta=0.0),
    "dpmpp_2m": solver(methods.dpmpp_2m, "data", eta=0.0),
    "dpmpp_3m": solver(methods.adams, "data", order=3, variable="log_snr", eta=0.0),
    "dpmpp_3m_published": solver(methods.dpmpp_3m_published, "data", eta=0.0),
    "dpmpp_1_sde": solver(methods.adams, "data", calls_a_step=1, order=1, variable="log_snr", eta=1.0),
    "dpmpp_2s_sde": solver(singlestep.dpmpp_2s, "data", calls_a_step=2, eta=1.0),
    "dpmpp_2m_sde": solver(methods.dpmpp_2m, "data", eta=1.0),
    "dpmpp_3m_sde": solver(methods.adams, "data", order=3, variable="log_snr", eta=1.0),
    "unipc": solver(methods.unipc, "data"),
}
