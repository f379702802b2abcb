r"""Tuning a sampler to a model.

A sampler of the fast family is its table (see `solvers.fast.table`): times, and a lower triangle of weights. Given a
model and a budget of `N` calls, all of it is learned at once, by gradient through the sampler, from the distance
between its samples and accurate solutions of the same ODE from the same noise:

    minimise    ( mean_i |x_i(table) - x_i(exact)|^{1/2} )^2

over the times, the weights of the last few outputs, and the weight of the state, in the coordinates of
`solvers.fast.learned_table`. The root keeps the few examples whose trajectories pass close to where they part from
ruling the mean. The recommended solver's table, of two orders, is where it starts. As there are few parameters and each
example brings as many equations as it has dimensions, small batches from a few hundred examples are enough; held-out
noise decides which table to keep, so that the result is never worse there than the start. A step that makes things much
worse is taken back, and the learning rate halved. The model's activations are recomputed in the backward pass, one step
at a time.
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
from score_sde.solvers.base import Model
from score_sde.solvers.fast import methods
from score_sde.solvers.fast.default import recommended_order
from score_sde.solvers.fast.learned_table import LearnedTable, run
from score_sde.solvers.fast.recorder import method_table
from score_sde.solvers.fast.table import MOST_STEPS_OF_TABLE, Table, integrate
from score_sde.solvers.grids import time_grid
from score_sde.solvers.options import MAX_ORDER, MOST_STEPS, check_at_least, check_between, check_positive
from score_sde.solvers.process import last_time

# By default: equations (trajectories times dimensions) to learn from, and those of a batch; calls of the model, and
# iterations at least.
_EQUATIONS, _BATCH_EQUATIONS = 16384, 2048
_CALLS = 3000
_LEAST_ITERATIONS = 80
_VALIDATE_EVERY = 8
_PATIENCE = 8
# A loss this much above the best (both in log, and relative to the start's on the same batch) is a blow-up.
_BLOW_UP = 0.7
# Keeps roots differentiable at zero.
_SMALLEST_SQUARE = 1e-12


class Tuned(NamedTuple):
    """A tuned sampler.

    Attributes:
        table: the sampler; `get_solver("tuned", table=table)` runs it, `save_table` keeps it.
        error: distance to the exact endpoints on held-out noise, `(mean_i |x_i - x_i(exact)|^{1/2})^2`.
        start_error: the same for the recommended solver.
    """

    table: Table
    error: float
    start_error: float


@checked
def tune(
    model: Model,
    num_steps: int,
    shape: Sequence[int],
    *,
    num_trajectories: int | None = None,
    num_validation: int = 64,
    batch_size: int | None = None,
    iterations: int | None = None,
    learning_rate: float = 0.02,
    memory: int = 10,
    orders: Sequence[int] | None = None,
    data_std: float = 0.5,
    reference_steps: int = 100,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[int, float], None] | None = None,
) -> Tuned:
    """Tune a sampler of `num_steps` calls to a model.

    Args:
        model: differentiable with respect to `x` and `t`.
        num_steps: number of calls of the model.
        shape: shape of one example, `dims`.
        num_trajectories: examples to learn from; enough for 16384 equations if left out, but 128 to 512.
        num_validation: held-out examples.
        batch_size: examples an iteration; enough for 2048 equations if left out, but 16 to 512.
        iterations: of Adam, divided between trying the starts (a sixth each) and going on from the best; if left out,
            such that the model is called about 3000 times, but at least 80.
        learning_rate: falls to zero along a cosine.
        memory: how many past outputs a step may use.
        orders: of the recommended solver, as starts; if left out, 2 and 3 for up to 10 steps, 3 and 4 for more.
        data_std: standard deviation of the data, per dimension, for the starts.
        reference_steps: calls for an accurate solution, by UniPC-3.
        seed: of the noise.
        dtype: of the states; torch's default if left out.
        device: of the states.
        report: called with the iteration and the held-out error.

    Raises:
        UserError: an option is out of range, or the process is none that can be solved.
    """
    check_between("num_steps", num_steps, 1, MOST_STEPS_OF_TABLE)
    if not shape or min(shape) < 1:
        raise UserError(f"the shape of an example has numbers from 1 on, not {tuple(shape)}")
    last_time(model.sde, None)
    if num_trajectories is None:
        num_trajectories = min(512, max(128, _EQUATIONS // math.prod(shape)))
    if batch_size is None:
        batch_size = min(512, max(16, _BATCH_EQUATIONS // math.prod(shape)))
    if iterations is None:
        iterations = max(_LEAST_ITERATIONS, _CALLS // num_steps)
    if orders is None:
        orders = (2, 3) if num_steps <= 10 else (3, 4)
    check_between("num_trajectories", num_trajectories, 1, MOST_STEPS)
    check_between("num_validation", num_validation, 1, MOST_STEPS)
    check_between("batch_size", batch_size, 1, num_trajectories)
    check_between("iterations", iterations, 1, MOST_STEPS)
    check_positive("learning_rate", learning_rate)
    check_between("memory", memory, 1, MOST_STEPS)
    check_positive("data_std", data_std)
    check_between("reference_steps", reference_steps, 2, MOST_STEPS_OF_TABLE)
    check_between("the number of orders", len(orders), 1, MAX_ORDER)
    for order in orders:
        check_between("each of the orders", order, 1, MAX_ORDER)
    check_at_least("seed", seed, 0)
    recommended = LearnedTable(model.sde, num_steps, recommended_order(num_steps), memory, data_std)
    x_T = model.sde.prior_sample(
        (num_trajectories + num_validation, *shape),
        seeds=range(seed, seed + num_trajectories + num_validation),
        dtype=dtype,
        device=device,
    )
    exact = accurate_solution(model, x_T, reference_steps)
    train, held_out = (
        (x_T[:num_trajectories], exact[:num_trajectories]),
        (x_T[num_trajectories:], exact[num_trajectories:]),
    )
    start_error = _error(recommended, model, *held_out)

    trial = max(1, iterations // 6)
    starts = [LearnedTable(model.sde, num_steps, min(order, num_steps), memory, data_std) for order in orders]
    for start in starts:
        start.whiten(model, *train)
    fit = partial(_fit, model=model, train=train, held_out=held_out, batch_size=batch_size, report=report)
    errors = [fit(start, iterations=trial, learning_rate=learning_rate) for start in starts]
    best = starts[errors.index(min(errors))]
    error = fit(best, iterations=iterations - trial * len(starts), learning_rate=learning_rate)
    if not error < start_error:
        best, error = recommended, start_error
    with torch.no_grad():
        return Tuned(best(), error, start_error)


@torch.no_grad()
def accurate_solution(model: Model, x_T: Tensor, num_steps: int = 100) -> Tensor:
    """Return the end of the probability flow's trajectory from `x_T` `(B, *dims)`: at `t_min`, denoised; by UniPC-3."""
    times = time_grid(model.sde, "uniform_log_snr", num_steps)
    return integrate(method_table(methods.unipc, model.sde, times, prediction="data", order=3), model, x_T)


def _fit(
    learned: LearnedTable,
    *,
    model: Model,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    batch_size: int,
    iterations: int,
    learning_rate: float,
    report: Callable[[int, float], None] | None,
) -> float:
    """Fit in place; leaves the parameters that did best on held-out noise and returns their error there."""
    best_error, best = _error(learned, model, *held_out), _copy(learned)
    at_start = _distances(learned, model, *train)
    good_loss, good = math.inf, best
    scale, since = 1.0, 0
    optimiser = torch.optim.Adam(learned.parameters(), lr=learning_rate)
    for iteration, batch in zip(range(iterations), _batches(len(at_start), batch_size), strict=False):
        error, gradients = _error_and_gradients(learned, model, *(part[batch] for part in train))
        loss = math.log(error / _mean(at_start[batch]).item())
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
            error = _error(learned, model, *held_out)
            since = 0 if error < best_error else since + 1
            if error < best_error:
                best_error, best = error, _copy(learned)
            if report is not None:
                report(iteration + 1, error)
            if since >= _PATIENCE:
                break
    learned.load_state_dict(best)
    return best_error


def _batches(count: int, size: int) -> Iterator[Tensor]:
    """Yield indices of examples, without end: each example once before any comes again."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from (batch for batch in torch.randperm(count, generator=generator).split(size) if len(batch) >= size)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _mean(distances: Tensor) -> Tensor:
    return distances.sqrt().mean().square()


@torch.no_grad()
def _distances(learned: LearnedTable, model: Model, x_T: Tensor, exact: Tensor) -> Tensor:
    return (integrate(learned(), model, x_T) - exact).flatten(1).norm(dim=1)


@torch.no_grad()
def _error(learned: LearnedTable, model: Model, x_T: Tensor, exact: Tensor) -> float:
    table = learned()
    if not all(bool(array.isfinite().all()) for array in (table.times, table.state, table.outputs)):
        return math.inf
    error = _mean(_distances(learned, model, x_T, exact)).item()
    return error if math.isfinite(error) else math.inf


def _error_and_gradients(
    learned: LearnedTable, model: Model, x_T: Tensor, exact: Tensor
) -> tuple[float, tuple[Tensor, ...]]:
    """Return the error, and the gradients of its logarithm."""
    with torch.enable_grad():
        squares = (run(learned(), model, x_T)[0] - exact).flatten(1).square().sum(1)
        error = _mean(torch.sqrt(squares + _SMALLEST_SQUARE))
        return error.item(), torch.autograd.grad(error.log(), list(learned.parameters()))
