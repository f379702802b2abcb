r"""Samplers as tables of coefficients, and the one loop that runs them.

With `y = x / alpha` and `rho = sigma / alpha`, every sampler of the fast family asks the model at times `t_0, t_1, …`
and combines linearly: its state, the model's outputs `F_0, F_1, …` so far (noise `eps` or data `D`, which follow from
each other by Tweedie's formula `D = y - rho eps`), and fresh noise `z`,

    x_{k+1} = a_k x_k + sum_{j <= k} b_kj F_j + c_k z_k.

Multistep, singlestep and predictor-corrector methods are all of this form: where a method goes back to an earlier state
(Heun's second stage, UniPC's corrector), the way back is a combination of outputs too. So a sampler *is* its table
`(t, a, b, c)`. It is computed once, in float64, from the grid (`solvers.fast.recorder`); the loop asks the model and
forms linear combinations, nothing else. After `N` grid times `T = t_0 > … > t_{N-1} = t_min` the last step goes from
`t_min` to `sigma = 0`, where the answer is the denoised mean; so a method that asks the model once a step makes `N`
calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.sde import SDE
from score_sde.solvers.base import Draw, Model, Solution, Solver, Steps
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.trajectory import Watch

# A table takes memory with the square of its steps, 11 GB for these. (The longest ladder published has as many.)
MOST_STEPS_OF_TABLE = 4000


class Table(NamedTuple):
    """A sampler: `x_{k+1} = state_k x_k + sum_j outputs_kj F_j + noise_k z_k`; all float64.

    Attributes:
        times: when the model is asked, shape `(n,)`.
        state: shape `(n,)`.
        outputs: lower triangular, shape `(n, n)`.
        noise: shape `(n,)`.
        prediction: what `F` is made from: the model's noise `eps` or its denoised data `D`.
        blend: multiple of `x_k` that is added to it, shape `(n,)`; zero but for residuals.
        end: time of the last state; None for `sigma = 0`.
    """

    times: Tensor
    state: Tensor
    outputs: Tensor
    noise: Tensor
    prediction: Literal["noise", "data"]
    blend: Tensor
    end: Tensor | None = None


class Step(NamedTuple):
    """One call of the model and the combination after it, in plain numbers, so that the loop has none to compute.

    Attributes:
        t: when the model is asked, a tensor of shape `()`, float64.
        alpha: at `t`.
        sigma: at `t`.
        blend: multiple of the state that is added to the output.
        state: weight of the state.
        outputs: the outputs with a weight, and it.
        noise: weight of fresh noise.
        done: outputs that no later step uses.
    """

    t: Tensor
    alpha: float
    sigma: float
    blend: float
    state: float
    outputs: list[tuple[int, float]]
    noise: float
    done: list[int]


def steps_of(table: Table, sde: SDE) -> list[Step]:
    """Return the steps of a table."""
    rows = [[(j, weight) for j, weight in enumerate(row) if weight != 0] for row in table.outputs.tolist()]
    last_use = dict.fromkeys(range(len(rows)), 0) | {j: k for k, row in enumerate(rows) for j, _ in row}
    done = [[j for j in range(k + 1) if max(last_use[j], j) == k] for k in range(len(rows))]
    numbers = (sde.alpha(table.times), sde.sigma(table.times), table.blend, table.state)
    alpha, sigma, blend, state = (values.tolist() for values in numbers)
    columns = (table.times.unbind(), alpha, sigma, blend, state, rows, table.noise.tolist(), done)
    return [Step(*row) for row in zip(*columns, strict=True)]


def integrate(
    table: Table,
    model: Model,
    x: Tensor,
    noise: SampleNoise | None = None,
    threshold: Threshold | None = None,
) -> Tensor:
    """Run a table from `x` `(B, *dims)` at its first time; return the state at its end, in the dtype of `x`.

    Args:
        table: the sampler.
        model: asked `len(table.times)` times.
        x: start.
        noise: needed where the table has any.
        threshold: applied to the denoised data of each call.
    """
    return run_steps(steps_of(table, model.sde), table.prediction, model, x, noise, threshold)


def run_steps(
    steps: list[Step],
    prediction: str,
    model: Model,
    x: Tensor,
    noise: SampleNoise | None = None,
    threshold: Threshold | None = None,
    first: int = 0,
    reached: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run these steps, a whole table or a part of it that uses no earlier outputs; arguments else as of `integrate`.

    Args:
        steps: what to run.
        prediction: the table's.
        model: asked once a step.
        x: start.
        noise: needed where there is any.
        threshold: applied to the denoised data of each call.
        first: number of the first of these steps in the table.
        reached: called before each call of the model, with its number in the table and the state.
    """
    outputs: dict[int, Tensor] = {}
    for k, step in enumerate(steps, first):
        if reached is not None:
            reached(k, x)
        output = _output(model, x, step.t, step.alpha, step.sigma, prediction, threshold)
        outputs[k] = torch.add(output, x, alpha=step.blend) if step.blend else output
        x = x * step.state
        for j, weight in step.outputs:
            x = torch.add(x, outputs[j], alpha=weight)
        if step.noise and noise is not None:
            x = torch.add(x, noise.normal(x), alpha=step.noise)
        for j in step.done:
            del outputs[j]
    return x


def _output(
    model: Model, x: Tensor, t: Tensor, alpha: float, sigma: float, prediction: str, threshold: Threshold | None
) -> Tensor:
    if prediction == "noise" and threshold is None:
        return model.score(x, t) * -sigma
    data = model.denoise(x, t)
    if threshold is not None:
        data = threshold(data)
    return data if prediction == "data" else (x - alpha * data) / sigma


class TableSolver(Solver):
    """A solver that runs one table, made for the model's process at its first call.

    Args:
        make_table: the table for a process.
        threshold: applied to the denoised data of each call.
        calls_a_step: of a method that remembers nothing from step to step.
    """

    def __init__(
        self,
        make_table: Callable[[SDE], Table],
        threshold: Threshold | None = None,
        calls_a_step: int | None = None,
    ) -> None:
        self._make_table = make_table
        self._threshold = threshold
        self._calls_a_step = calls_a_step
        self._made: tuple[SDE, Table, list[Step]] | None = None

    def table(self, sde: SDE) -> Table:
        """Return the table for this process."""
        return self._for_process(sde)[0]

    def _for_process(self, sde: SDE) -> tuple[Table, list[Step]]:
        if self._made is None or self._made[0] is not sde:
            table = self._make_table(sde)
            if not all(bool(values.isfinite().all()) for values in table[:4]):
                raise UserError(
                    "this solver's coefficients are not finite: t_min must lie where there is some noise, and options "
                    "such as eta in the range of the method"
                )
            self._made = sde, table, steps_of(table, sde)
        return self._made[1:]

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        table, steps = self._for_process(model.sde)
        noise = _noise(table, draw)
        if watch is None:
            return Solution(run_steps(steps, table.prediction, model, x_T, noise, self._threshold), len(steps))

        def reached(k: int, x: Tensor) -> None:
            # The others are stages inside a step.
            if k % (self._calls_a_step or 1) == 0:
                watch.reached(steps[k].t, x)

        x = run_steps(steps, table.prediction, model, x_T, noise, self._threshold, reached=reached)
        watch.reached(0.0 if table.end is None else table.end, x, x if table.end is None else None)
        return Solution(x, len(steps))

    def split(self, model: Model, x_T: Tensor, draw: Draw) -> Steps:
        if self._calls_a_step is None:
            raise UserError(
                "this solver remembers earlier outputs, so that states cannot be changed between its steps: take one "
                "of single steps, as ddim, heun, dpmpp_2s, pc or sde"
            )
        table, steps = self._for_process(model.sde)
        noise = _noise(table, draw)
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


def _noise(table: Table, draw: Draw) -> SampleNoise | None:
    return draw("solver") if bool(table.noise.any()) else None
