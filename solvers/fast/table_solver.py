"""The solver that runs a table, made for a model's process and for the Gaussian that its data look like."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.gaussian import Gaussian
from score_sde.common.noise import SampleNoise
from score_sde.common.score import check_score, no_score
from score_sde.sde import SDE
from score_sde.solvers.base import Draw, Model, Solution, Solver, Steps, gaussian_of_model
from score_sde.solvers.fast.axes import InAxes
from score_sde.solvers.fast.table import Step, Table, alpha_at_end, first_answer, plus, run_steps, steps_of, which_scale
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.trajectory import Watch
from score_sde.solvers.transitions import GIVE_IT_NOISE


class TableSolver(Solver):
    """A solver that runs one table, made for the model's process, and its Gaussian if it has one, at its first call.

    Args:
        make_table: the table for a process, and for the Gaussian that the data look like, or None.
        threshold: applied to the denoised data of each call.
        calls_a_step: of a method that remembers nothing from step to step.
        make_flow_table: the table for a process and a model that is a flow and no score; the same as of others if left
            out.
    """

    def __init__(
        self,
        make_table: Callable[[SDE, Gaussian | None], Table],
        threshold: Threshold | None = None,
        calls_a_step: int | None = None,
        make_flow_table: Callable[[SDE], Table] | None = None,
    ) -> None:
        self._make_table = make_table
        self._threshold = threshold
        self._calls_a_step = calls_a_step
        self._make_flow_table = make_flow_table
        self._made: tuple[SDE, Gaussian | None, bool, Table, list[Step]] | None = None

    def table(self, sde: SDE, gaussian: Gaussian | None = None) -> Table:
        """Return the table for this process, and for data that look like this Gaussian."""
        return self._made_for(sde, gaussian)[0]

    def _made_for_model(self, model: Model) -> tuple[Table, list[Step]]:
        return self._made_for(model.sde, gaussian_of_model(model), bool(no_score(model)))

    def _made_for(self, sde: SDE, gaussian: Gaussian | None, flow: bool = False) -> tuple[Table, list[Step]]:
        made = self._made
        if made is None or made[0] is not sde or made[1] is not gaussian or made[2] is not flow:
            straight = self._make_flow_table if flow else None
            table = self._make_table(sde, gaussian) if straight is None else straight(sde)
            if not all(bool(values.isfinite().all()) for values in table[:4]):
                raise UserError(
                    "this solver's coefficients are not finite: t_min must lie where there is some noise, and options "
                    "such as eta in the range of the method"
                )
            made = self._made = sde, gaussian, flow, table, steps_of(table, sde)
        return made[3:]

    def calls(self, sde: SDE) -> int:
        """Count the batched network calls under a process; see `Solver.calls`."""
        return self.table(sde).calls

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        table, steps = self._made_for_model(model)
        noise = _noise(table, model, draw)
        there = model if table.gaussian is None else InAxes(model, table.gaussian, x_T)

        x, given, which = x_T, None, None
        if isinstance(there, InAxes):
            given = first_answer(table, steps[0], InAxes(_asked(model), there.gaussian, x_T), x_T, self._threshold)
            x, which = there.turned(x_T, steps[0].alpha), which_scale(there.gaussian, x_T)

        def reached(k: int, u: Tensor) -> None:
            # The others are stages inside a step.
            if watch is None or k % (self._calls_a_step or 1):
                return
            state = there.turned_back(u, steps[k].alpha) if isinstance(there, InAxes) else u
            denoised = None
            if k == 0 and given is not None and isinstance(there, InAxes):
                denoised = _taken_for_denoised(steps[0], there, u, given)
            watch.reached(steps[k].t, state, denoised)

        heard = None if watch is None else reached
        x = run_steps(steps, table.prediction, there, x, noise, self._threshold, 0, heard, which, given)
        if isinstance(there, InAxes):
            x = there.turned_back(x, alpha_at_end(table, model.sde))
        if watch is not None:
            watch.reached(0.0 if table.end is None else table.end, x, x if table.end is None else None)
        # A call on one example counts as one for a batch of one alone.
        return Solution(x, table.calls + (given is not None and len(given) == len(x_T)))

    def no_step_density(self, model: Model) -> str:
        """Return why steps have no log-probabilities: the table has no noise; nothing if it has some."""
        if bool(self._made_for_model(model)[0].noise.any()):
            return ""
        return f"the table of this solver has no noise: {GIVE_IT_NOISE}"

    def split(self, model: Model, x_T: Tensor, draw: Draw) -> Steps:
        if self._calls_a_step is None:
            raise UserError(
                "this solver remembers earlier outputs, so that states cannot be changed between its steps: take one "
                "of single steps, as ddim, heun, dpmpp_2s, pc or sde"
            )
        table, steps = self._made_for(model.sde, None, bool(no_score(model)))
        noise = _noise(table, model, draw)
        firsts = range(0, len(steps), self._calls_a_step)
        parts = [steps[first : first + self._calls_a_step] for first in firsts]

        def step(k: int, x: Tensor) -> Tensor:
            return run_steps(parts[k], table.prediction, model, x, noise, self._threshold, firsts[k])

        times = table.times[list(firsts)]
        if table.end is None:
            ends = model.sde.at(times).and_data()
        else:
            ends = model.sde.at(torch.cat([times, table.end.reshape(1)]))
        return Steps(ends, [len(part) for part in parts], step)


def _asked(model: Model) -> Model:
    """Return the model that is asked about no state of a trajectory."""
    return model.model if isinstance(model, Watch) else model


def _noise(table: Table, model: Model, draw: Draw) -> SampleNoise | None:
    """Return the source of a table's noise, if it has any."""
    if not bool(table.noise.any()):
        return None
    check_score(model, "a solver with noise")
    return draw("solver")


def _taken_for_denoised(step: Step, model: InAxes, u: Tensor, given: Tensor) -> Tensor:
    """Return what stands for the denoised mean where a step is free: the Gaussian's, with the mean the model's."""
    eps = plus(given.expand(u.shape), u, -step.blend, which_scale(model.gaussian, u))
    return model.turned_back((u - step.sigma_told * eps) / step.alpha, 1.0)
