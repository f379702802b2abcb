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
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.solvers.base import Model, gaussian_of_model
from score_sde.solvers.fast import methods
from score_sde.solvers.fast.default import hides
from score_sde.solvers.fast.fitting import Problem
from score_sde.solvers.fast.recorder import method_table
from score_sde.solvers.fast.table import MOST_STEPS_OF_TABLE, Table, integrate
from score_sde.solvers.fast.trajectories import follow, measure_gaussian
from score_sde.solvers.grids import time_grid
from score_sde.solvers.options import MOST_STEPS, check_at_least, check_between, check_positive
from score_sde.solvers.process import last_time

# By default: equations (trajectories times dimensions) to learn from, and those of a batch of an iteration.
_EQUATIONS, _BATCH_EQUATIONS = 16384, 2048
# Calls of the model in the iterations for a number of steps.
_CALLS = 600
_LEAST_DATA_STD = 1e-6


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
        hides(model.sde, known),
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
