r"""The one integrator of the fast family.

A method's table (see `solvers.fast.recorder`) is computed once, in float64, from the grid; the loop then asks the model and
forms linear combinations, nothing else. After `N` grid times `T = t_0 > … > t_{N-1} = t_min` the last step goes from
`t_min` to `sigma = 0`, where the answer is the denoised mean; so a method that asks the model once a step makes `N`
calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.sde import SDE
from score_sde.solvers.base import Ends, Model, Solution, States, Stepwise, check_between, sample_noise
from score_sde.solvers.fast.recorder import MOST_STEPS_OF_TABLE, Nodes, Prediction, Table, Tape
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.grids import Grid, time_grid

# The most calls a method makes in a step.
_MAX_STAGES = 3

Method = Callable[..., Tensor]


def method_table(
    method: Method,
    sde: SDE,
    times: Tensor,
    *,
    prediction: Prediction,
    denoise: bool = True,
    **options: Any,
) -> Table:
    """Run a method from `solvers.fast.methods` on coefficient vectors and return its table, differentiable with respect to
    `times`.

    Args:
        method: what to run.
        sde: the forward process.
        times: the grid, float64, shape `(N,)`.
        prediction: the output in which the method is written.
        denoise: finish with a call at the last time and its denoised mean.
        options: passed to the method.
    """
    nodes = Nodes.at_times(sde, times)
    tape = Tape(sde, _MAX_STAGES * len(times), prediction, denoise)
    y = method(tape, nodes, **options)
    last = nodes[len(times) - 1]
    table = tape.table(tape.evaluate(y, last).data, None) if denoise else tape.table(y, last)
    # A stage at the end of a step may lie beyond it by a rounding error.
    return table._replace(times=table.times.clamp(times[-1].item(), times[0].item()))


class Step(NamedTuple):
    """One call of the model and the combination after it, in plain numbers, so that the loop has none to compute.

    Attributes:
        t: when the model is asked, a tensor of shape `()`.
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
    """The steps of a table."""
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
    """Run a table from `x` `(B, *dims)` at its first time; the state at its end, in the dtype of `x`.

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
) -> Tensor:
    """The loop: see `integrate`. These steps, of which the number in the table is `first`, use no earlier outputs."""
    outputs: dict[int, Tensor] = {}
    for k, step in enumerate(steps, first):
        output = _output(model, x, step.t.to(x.device), step.alpha, step.sigma, prediction, threshold)
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


class TableSolver:
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
        """The table for this process."""
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

    @torch.no_grad()
    @checked
    def __call__(
        self,
        model: Model,
        x_T: States,
        *,
        seeds: Iterable[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """Solve from `x_T` `(B, *dims)`; seeds, one an example, or a generator matter to stochastic methods alone."""
        table, steps = self._for_process(model.sde)
        x = run_steps(steps, table.prediction, model, x_T, self._noise(table, x_T, seeds, generator), self._threshold)
        return Solution(x, len(steps))

    @staticmethod
    def _noise(
        table: Table, x_T: Tensor, seeds: Iterable[int] | None, generator: torch.Generator | None
    ) -> SampleNoise | None:
        return sample_noise(x_T, seeds, generator) if bool(table.noise.any()) else None

    @checked
    def stepwise(
        self,
        model: Model,
        x_T: States,
        *,
        seeds: Iterable[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Stepwise:
        """The method's steps; arguments as of a call.

        Raises:
            UserError: it remembers outputs from step to step.
        """
        if self._calls_a_step is None:
            raise UserError(
                "this solver remembers earlier outputs, so that states cannot be changed between its steps: take one "
                "of single steps, as ddim, heun, dpmpp_2s, pc or sde"
            )
        table, steps = self._for_process(model.sde)
        noise = self._noise(table, x_T, seeds, generator)
        firsts = range(0, len(steps), self._calls_a_step)
        parts = [steps[first : first + self._calls_a_step] for first in firsts]

        def step(k: int, x: Tensor) -> Tensor:
            return run_steps(parts[k], table.prediction, model, x, noise, self._threshold, firsts[k])

        times = torch.cat([table.times[list(firsts)], *([] if table.end is None else [table.end.reshape(1)])])
        return Stepwise(Ends.at_times(model.sde, times, table.end is None), [len(part) for part in parts], step)


def solver_from_method(
    method: Method,
    prediction: Prediction,
    default_grid: Grid = "uniform_log_snr",
    calls_a_step: int | None = None,
    **fixed: Any,
) -> Callable[..., TableSolver]:
    """The constructor of a named solver; see `TableSolver` for the calls.

    Its options are `num_steps`, the number of grid times; `grid` and `t_min` (see `time_grid`); `denoise`, whether to
    end at
    `sigma = 0` or stop at `t_min`; `threshold` (see `solvers.fast.thresholding`); then the method's own, but those that
    are `fixed`.
    """

    def build(
        num_steps: int,
        grid: Grid = default_grid,
        t_min: float | None = None,
        denoise: bool = True,
        threshold: Threshold | None = None,
        **own: Any,
    ) -> TableSolver:
        check_between("num_steps", num_steps, 1, MOST_STEPS_OF_TABLE)

        def make_table(sde: SDE) -> Table:
            times = time_grid(sde, grid, num_steps, t_min)
            return method_table(method, sde, times, prediction=prediction, denoise=denoise, **{**fixed, **own})

        return TableSolver(make_table, threshold, calls_a_step)

    common = [p for p in inspect.signature(build).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [p for p in inspect.signature(method).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in fixed]
    build.__signature__ = inspect.Signature([*common, *own])  # type: ignore[attr-defined]
    hints = get_type_hints(method, include_extras=True) | get_type_hints(build, include_extras=True)
    build.__annotations__ = {p.name: hints[p.name] for p in (*common, *own)}
    build.__doc__ = method.__doc__
    return build
