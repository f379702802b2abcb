r"""Tuning a sampler to a model.

A sampler of the fast family is its table (see `solvers.fast.table`): times, and weights. Given a model, all of it is
learned from accurate trajectories of the probability flow (`solvers.fast.trajectories`), for any numbers of steps:

    times      equal shares of a density, how much trajectories bend, to a power between those that make the local
               errors of a method alike; a little of it is even
    weights    of each step by least squares, such that its result is the trajectory's state, from where the steps
               before it have led (`solvers.fast.learned_table`)

which takes no derivative of the model. Which power is best, held-out noise decides. Then, if asked for, times, weights,
and what the model is told of the noise, are all learned by gradient through the sampler, from the distance between its
samples and the trajectories' ends,

    minimise    ( mean_i |x_i(table) - x_i(exact)|^{1/2} )^2

The root keeps the few examples whose trajectories pass close to where they part from ruling the mean. Small batches are
enough; a step that makes things much worse is taken back, and the learning rate halved; held-out noise decides which
table to keep, so that the result is never worse there than the recommended solver. The model's activations are
recomputed in the backward pass, one step at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.solvers.base import Model, gaussian_of_model
from score_sde.solvers.fast import methods
from score_sde.solvers.fast.default import recommended_table, recommended_times, rule_for
from score_sde.solvers.fast.learned_table import LearnedTable, bands_of, run
from score_sde.solvers.fast.recorder import method_table
from score_sde.solvers.fast.table import MOST_STEPS_OF_TABLE, Table, integrate
from score_sde.solvers.fast.trajectories import Trajectories, equal_shares, follow, measure_gaussian
from score_sde.solvers.grids import time_grid
from score_sde.solvers.options import MOST_STEPS, check_at_least, check_between, check_positive
from score_sde.solvers.process import last_time

# By default: equations (trajectories times dimensions) to learn from, and those of a batch of an iteration.
_EQUATIONS, _BATCH_EQUATIONS = 16384, 2048
# The power of the bending, and the even share, of the densities of times that are tried.
_DENSITIES = ((0.3, 0.3), (0.5, 0.2), (0.7, 0.15))
# Calls of the model in the iterations for a number of steps.
_CALLS = 600
_VALIDATE_EVERY = 8
_PATIENCE = 5
# A loss this much above the best (both in log, and relative to the start's on the same batch) is a blow-up.
_BLOW_UP = 0.7
_LEAST_DATA_STD = 1e-6
# Keeps roots differentiable at zero.
_SMALLEST_SQUARE = 1e-12


class Tuned(NamedTuple):
    """A tuned sampler.

    Attributes:
        table: the sampler; `get_solver("tuned", table=table)` runs it, `save_tables` keeps it.
        error: distance to the exact endpoints on held-out noise, `(mean_i |x_i - x_i(exact)|^{1/2})^2`.
        start_error: the same for the recommended solver.
    """

    table: Table
    error: float
    start_error: float


@checked
def tune(
    model: Model,
    numbers: Sequence[int],
    shape: Sequence[int],
    *,
    num_trajectories: int | None = None,
    num_validation: int = 64,
    batch_size: int | None = None,
    iterations: int | None = None,
    learning_rate: float = 0.02,
    memory: int = 6,
    data_std: float = 0.5,
    reference_steps: int = 160,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[int, int, float], None] | None = None,
) -> dict[int, Tuned]:
    """Tune samplers of several numbers of calls to a model, all to the same trajectories.

    Args:
        model: differentiable with respect to `x` and `t`, if there are iterations.
        numbers: numbers of calls of the model.
        shape: shape of one example, `dims`.
        num_trajectories: examples to learn from; enough for 16384 equations if left out, but 128 to 512.
        num_validation: held-out examples.
        batch_size: examples an iteration; enough for 2048 equations if left out, but 16 to 512.
        iterations: of Adam, after the weights are known, for each number; if left out, such that the model is called
            about 600 times.
        learning_rate: falls to zero along a cosine.
        memory: how many past outputs a step may use.
        data_std: standard deviation of the data, per dimension, of models that do not know their Gaussian.
        reference_steps: calls for the trajectories.
        seed: of the noise.
        dtype: of the states; torch's default if left out.
        device: of the states.
        report: called with the number of calls, the iteration and the held-out error.

    Returns:
        A tuned sampler for each of the numbers.

    Raises:
        UserError: an option is out of range, or the process is none that can be solved.
    """
    if not numbers:
        raise UserError("say for which numbers of steps samplers are to be tuned")
    for number in numbers:
        check_between("num_steps", number, 1, MOST_STEPS_OF_TABLE)
    if not shape or min(shape) < 1:
        raise UserError(f"the shape of an example has numbers from 1 on, not {tuple(shape)}")
    last_time(model.sde, None)
    if num_trajectories is None:
        num_trajectories = num_examples(shape, 0)
    if batch_size is None:
        batch_size = min(512, max(16, _BATCH_EQUATIONS // math.prod(shape)))
    check_between("num_trajectories", num_trajectories, 1, MOST_STEPS)
    check_between("num_validation", num_validation, 1, MOST_STEPS)
    check_between("batch_size", batch_size, 1, num_trajectories)
    check_between("iterations", 0 if iterations is None else iterations, 0, MOST_STEPS)
    check_positive("learning_rate", learning_rate)
    check_between("memory", memory, 1, MOST_STEPS)
    if not data_std >= _LEAST_DATA_STD:
        raise UserError(f"data_std must be at least {_LEAST_DATA_STD:g}, not {data_std:g}")
    check_between("reference_steps", reference_steps, 16, MOST_STEPS_OF_TABLE)
    check_at_least("seed", seed, 0)
    count = num_trajectories + num_validation
    seeds = range(seed, seed + count)
    x_T = model.sde.prior_sample((count, *shape), seeds=seeds, dtype=dtype, device=device)
    known = gaussian_of_model(model)
    gaussian = measure_gaussian(model, x_T, data_std, reference_steps) if known is None else known
    exact = follow(model, x_T, gaussian, reference_steps)
    parts = (slice(0, num_trajectories), slice(num_trajectories, count))
    problem = Problem(
        [_rows(model, part) for part in parts],
        [exact.part(part) for part in parts],
        known is not None,
        memory,
        exact.bending(),
    )
    tuned = {}
    for number in numbers:
        learned, error, start_error = problem.start(number)
        many = _CALLS // number if iterations is None else iterations
        error = problem.polish(learned, error, many, learning_rate, batch_size, partial(_told, report, number))
        with torch.no_grad():
            table = learned() if error < start_error else problem.recommended(number)
        tuned[number] = Tuned(table, min(error, start_error), start_error)
    return tuned


def num_examples(shape: Sequence[int], num_validation: int = 64) -> int:
    """Return how many examples are learned from by default, with those held out, for examples of this shape."""
    return min(512, max(128, _EQUATIONS // math.prod(shape))) + num_validation


def _told(report: Callable[[int, int, float], None] | None, number: int, iteration: int, error: float) -> None:
    if report is not None:
        report(number, iteration, error)


def _rows(model: Model, part: slice) -> Model:
    """Return the model of some of the examples that it is bound to; any other model is the same for all."""
    return model.rows(part) if hasattr(model, "rows") else model


@torch.no_grad()
def accurate_solution(model: Model, x_T: Tensor, num_steps: int = 100) -> Tensor:
    """Return the end of the probability flow's trajectory from `x_T` `(B, *dims)`: at `t_min`, denoised; by UniPC-3."""
    times = time_grid(model.sde, "uniform_log_snr", num_steps)
    return integrate(method_table(methods.unipc, model.sde, times, prediction="data", order=3), model, x_T)


class Problem(NamedTuple):
    """Trajectories to learn from and held-out ones, and what all samplers that are learned from them have in common.

    Attributes:
        models: the model, of the rows of the one and of the other.
        exact: the trajectories.
        known: whether the model knows its Gaussian, so that the first step may be free.
        memory: how many past outputs a step may use.
        bending: how much trajectories bend at their nodes.
    """

    models: list[Model]
    exact: list[Trajectories]
    known: bool
    memory: int
    bending: Tensor

    def recommended(self, number: int) -> Table:
        """Return the recommended solver's table, in the axes of the trajectories' Gaussian."""
        sde, gaussian = self.models[0].sde, self.exact[0].gaussian
        rule = rule_for(number, True)
        rule = rule._replace(free=rule.free and self.known)
        times = recommended_times(sde, number + rule.free, sde.t_min, True, gaussian, rule)
        return recommended_table(sde, times, None, gaussian, rule)

    def start(self, number: int) -> tuple[LearnedTable, float, float]:
        """Return the best table that is known without derivatives, its error, and that of the recommended solver."""
        found = []
        for power, even in _DENSITIES:
            learned = self.learned(number, power, even)
            learned.fit_weights(self.models[0], self.exact[0])
            found.append((self.error(learned()), learned))
        error, best = min(found, key=lambda pair: pair[0])
        return best, error, self.error(self.recommended(number))

    def learned(self, number: int, power: float, even: float) -> LearnedTable:
        """Return a table whose times have equal shares of a density, with the recommended weights."""
        sde, exact = self.models[0].sde, self.exact[0]
        density = self.bending**power
        density = (1 - even) * density / density.mean() + even
        rule = rule_for(4, True)._replace(free=self.known)
        end = exact.variable(exact.nodes.new_zeros(1))
        nodes, density = torch.cat([exact.nodes, end]), torch.cat([density, density[-1:]])
        v = equal_shares(nodes, density, number + rule.free)
        rho = exact.variable.inverse(v)
        inner = sde.time_at_log_snr(-2 * torch.log(rho)).clamp(sde.t_min, sde.T)
        times = torch.cat([inner.new_full((1,), sde.T), inner])
        bands = bands_of(exact.gaussian, len(exact.latents), exact.latents)
        return LearnedTable(sde, times, exact.gaussian, rule, self.memory, bands)

    @torch.no_grad()
    def error(self, table: Table) -> float:
        """Return the error of a table on held-out trajectories; infinite if it has numbers that are none."""
        if not all(bool(array.isfinite().all()) for array in (table.times, table.state, table.outputs)):
            return math.inf
        error = _mean(self.distances(table, 1)).item()
        return error if math.isfinite(error) else math.inf

    @torch.no_grad()
    def distances(self, table: Table, part: int) -> Tensor:
        """Return the distances from the ends of the trajectories of a part, `(M,)`."""
        exact = self.exact[part]
        return (run(table, self.models[part], exact.latents) - exact.end).flatten(1).norm(dim=1)

    def polish(
        self,
        learned: LearnedTable,
        error: float,
        iterations: int,
        learning_rate: float,
        batch_size: int,
        report: Callable[[int, float], None],
    ) -> float:
        """Learn a table further, by gradient, in place; return its error, which is never more than it was."""
        best_error, best = error, _copy(learned)
        report(0, error)
        if not iterations:
            return error
        at_start = self.distances(learned(), 0)
        good_loss, good = math.inf, best
        scale, since = 1.0, 0
        optimiser = torch.optim.Adam(learned.parameters(), lr=learning_rate)
        for iteration, batch in zip(range(iterations), _batches(len(at_start), batch_size), strict=False):
            now, gradients = self._error_and_gradients(learned, batch)
            loss = math.log(now / _mean(at_start[batch]).item())
            if not (math.isfinite(loss) and loss < good_loss + _BLOW_UP):
                learned.load_state_dict(good)
                scale /= 2
                optimiser = torch.optim.Adam(learned.parameters(), lr=learning_rate)
                continue
            if loss < good_loss:
                good_loss, good = loss, _copy(learned)
            for group in optimiser.param_groups:
                group["lr"] = scale * learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
            for parameter, gradient in zip(learned.parameters(), gradients, strict=True):
                parameter.grad = gradient.nan_to_num()
            optimiser.step()
            if (iteration + 1) % _VALIDATE_EVERY == 0 or iteration + 1 == iterations:
                error = self.error(learned())
                since = 0 if error < best_error else since + 1
                if error < best_error:
                    best_error, best = error, _copy(learned)
                report(iteration + 1, error)
                if since >= _PATIENCE:
                    break
        learned.load_state_dict(best)
        return best_error

    def _error_and_gradients(self, learned: LearnedTable, batch: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        """Return the error on some of the trajectories, and the gradients of its logarithm."""
        exact, model = self.exact[0], self.models[0]
        model = model.rows(batch) if hasattr(model, "rows") else model
        with torch.enable_grad():
            ends = run(learned(), model, exact.latents[batch])
            squares = (ends - exact.end[batch]).flatten(1).square().sum(1)
            error = _mean(torch.sqrt(squares + _SMALLEST_SQUARE))
            gradients = torch.autograd.grad(error.log(), list(learned.parameters()), allow_unused=True)
        parameters = zip(learned.parameters(), gradients, strict=True)
        return error.item(), tuple(torch.zeros_like(p) if g is None else g for p, g in parameters)


def _batches(count: int, size: int) -> Iterator[Tensor]:
    """Yield indices of examples, without end: each example once before any comes again."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from (batch for batch in torch.randperm(count, generator=generator).split(size) if len(batch) >= size)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _mean(distances: Tensor) -> Tensor:
    return distances.sqrt().mean().square()
