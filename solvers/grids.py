r"""Time grids: where a sampler asks the model.

A grid is `T = t_0 > t_1 > … > t_{N-1} = t_min`. The names, with `rho = sigma / alpha` and `lambda = -log rho`, half the
log-SNR:

    uniform_t          t linear in the index
    quadratic_t        sqrt(t) linear in the index                (Song et al. 2021, arXiv:2010.02502, "quadratic")
    uniform_log_snr    lambda linear in the index                 (Lu et al. 2022, arXiv:2206.00927)
    log_angle          log theta + 2 log(theta + 0.3) linear in the index, theta = arctan rho
    karras             rho^(1/7) linear in the index              (Karras et al. 2022, arXiv:2206.00364, equation 5)
    optimised          minimises a bound on the global error      (Xue et al. 2024, arXiv:2402.17376)

A name may have a number `a` after a colon, `uniform_t:3`: its times are moved, as fractions of `T`, by

    u -> a u / (1 + (a - 1) u)         (Esser et al. 2024, arXiv:2403.03206, equation 23; more noise for a > 1)

between `T` and `t_min` all the same.

Of a process that ends in nothing but noise, those that are functions of `lambda` begin at `SDE.t_max`, but for their
first time, which is `T`.

`log_angle` is `uniform_log_snr` where there is little noise, three times as dense where images take shape, and has
hardly any times where there is nothing but noise; of these grids it needs the fewest steps for likelihoods
(`benchmarks/likelihood.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.sde import SDE
from score_sde.sde.fractions import shifted
from score_sde.solvers.process import last_time, log_snr_range
from score_sde.solvers.quadrature import adams_weights

Grid = str | Sequence[float] | Tensor

_KARRAS_EXPONENT = 7.0
_HIGH_NOISE = 2.0
_HIGH_ANGLE = 0.3
_FINE = 10_000
_MOST_SHIFT = 1000.0


class NoStepsError(UserError):
    """A solver was given neither a number of steps nor the times that say it."""


def listed_times(grid: Grid | None) -> int | None:
    """Return how many times a grid lists; None if it lists none."""
    if grid is None or isinstance(grid, str):
        return None
    return grid.numel() if isinstance(grid, Tensor) else len(grid)


def number_of_times(num_steps: int | None, grid: Grid | None) -> int:
    """Return the number of times of a grid: the one given, or that of the times it lists.

    Raises:
        NoStepsError: there is neither.
    """
    number = listed_times(grid) if num_steps is None else num_steps
    if number is None:
        raise NoStepsError("say how many steps: give num_steps, or the times as the grid")
    return number


def time_grid(sde: SDE, grid: Grid, num_steps: int, t_min: float | None = None) -> Tensor:
    """Return the times `T = t_0 > … > t_{num_steps - 1} = t_min` of a grid, float64, shape `(num_steps,)`.

    Args:
        sde: the forward process.
        grid: a name from `GRIDS`, maybe with a shift, or `num_steps` times that decrease from `T` and stay inside
            `[t_min, T]`.
        num_steps: number of times. A single one is `T`.
        t_min: last time of a named grid, and the least of one given; the process's own `t_min` if left out.

    Raises:
        UserError: the grid has no such name, or the times given are not decreasing, too many, too few or out of range.
    """
    t_min = last_time(sde, t_min)
    if not isinstance(grid, str):
        return _given_times(sde, grid, num_steps, t_min)
    name, shift = named_grid(grid)
    if num_steps < 1:
        raise UserError(f"a grid needs at least 1 step, not {num_steps}")
    if num_steps == 1:
        return torch.tensor([sde.T], dtype=torch.float64)
    if shift == 1:
        times = GRIDS[name](sde, num_steps, t_min).clone()
    else:
        last = sde.T * float(shifted(torch.tensor(t_min / sde.T, dtype=torch.float64), 1 / shift))
        times = sde.T * shifted(GRIDS[name](sde, num_steps, last) / sde.T, shift)
    times[0], times[-1] = sde.T, t_min
    return times


def named_grid(text: str) -> tuple[str, float]:
    """Return the name of a grid and its shift, 1 if it has none.

    Raises:
        UserError: there is no grid of this name, or the shift is not a number above 0.
    """
    name, colon, number = text.partition(":")
    if name not in GRIDS:
        raise UserError(f"no grid is called {name!r}; there are: {', '.join(GRIDS)}; or give the times as a list")
    try:
        shift = float(number) if colon else 1.0
    except ValueError:
        shift = math.nan
    if not 1 / _MOST_SHIFT <= shift <= _MOST_SHIFT:
        raise UserError(f"the times of a grid are shifted by a number such as 3, {name}:3, not by {number!r}")
    return name, shift


def _given_times(sde: SDE, grid: Sequence[float] | Tensor, num_steps: int, t_min: float) -> Tensor:
    try:
        times = torch.as_tensor(grid, dtype=torch.float64).flatten().clone()
    except (TypeError, ValueError) as error:
        raise UserError(f"a grid is a name ({', '.join(GRIDS)}) or a list of times, not {grid!r}") from error
    if len(times) != num_steps:
        raise UserError(f"the grid has {len(times)} times but num_steps is {num_steps}: make them equal")
    if not bool((times[1:] < times[:-1]).all()):
        raise UserError("the times of a grid must decrease strictly")
    if abs(float(times[0]) - sde.T) > 1e-9 or float(times[-1]) < t_min:
        raise UserError(
            f"the times of a grid must start at T = {sde.T:g} and stay above t_min = {t_min:g}; "
            f"these run from {float(times[0]):g} to {float(times[-1]):g}"
        )
    return times


def _lambda_range(sde: SDE, t_min: float) -> tuple[float, float]:
    start, end = (0.5 * log_snr_range(sde, t_min)).tolist()
    return start, end


def _linspace(start: float, end: float, num_steps: int) -> Tensor:
    return torch.linspace(start, end, num_steps, dtype=torch.float64)


def _uniform_t(sde: SDE, num_steps: int, t_min: float) -> Tensor:
    return _linspace(sde.T, t_min, num_steps)


def _quadratic_t(sde: SDE, num_steps: int, t_min: float) -> Tensor:
    return _linspace(sde.T**0.5, t_min**0.5, num_steps) ** 2


def _uniform_log_snr(sde: SDE, num_steps: int, t_min: float) -> Tensor:
    return sde.time_at_log_snr(2 * _linspace(*_lambda_range(sde, t_min), num_steps))


def _log_angle(sde: SDE, num_steps: int, t_min: float) -> Tensor:
    start, end = np.arctan(np.exp(-np.array(_lambda_range(sde, t_min))))
    # Times are found on a fine grid, on which the position is nearly linear.
    angle = np.geomspace(start, end, _FINE)
    position = np.log(angle) + _HIGH_NOISE * np.log(angle + _HIGH_ANGLE)
    chosen = np.interp(np.linspace(position[0], position[-1], num_steps), position[::-1], np.log(angle)[::-1])
    return sde.time_at_log_snr(-2 * torch.log(torch.tan(torch.from_numpy(np.exp(chosen)))))


def _karras(sde: SDE, num_steps: int, t_min: float) -> Tensor:
    start, end = _lambda_range(sde, t_min)
    root = _linspace(np.exp(-start / _KARRAS_EXPONENT), np.exp(-end / _KARRAS_EXPONENT), num_steps)
    return sde.time_at_log_snr(-2 * _KARRAS_EXPONENT * torch.log(root))


def _optimised(sde: SDE, num_steps: int, t_min: float) -> Tensor:
    return sde.time_at_log_snr(
        2 * torch.tensor(_optimised_lambdas(*_lambda_range(sde, t_min), num_steps), dtype=torch.float64)
    )


@lru_cache(maxsize=64)
def _optimised_lambdas(start: float, end: float, num_steps: int) -> list[float]:
    from scipy.optimize import minimize

    def half_log_snr(logits: Tensor) -> Tensor:
        return start + (end - start) * torch.cat([logits.new_zeros(1), torch.softmax(logits, 0).cumsum(0)])

    def bound_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            bound = _error_bound(half_log_snr(logits))
            (gradient,) = torch.autograd.grad(bound, logits)
        return bound.item(), gradient.numpy()

    limits = [(-4.0, 4.0)] * (num_steps - 1)
    best = minimize(bound_and_gradient, np.zeros(num_steps - 1), jac=True, method="L-BFGS-B", bounds=limits)
    return half_log_snr(torch.tensor(best.x, dtype=torch.float64)).tolist()


def _error_bound(lam: Tensor) -> Tensor:
    """Return the bound of Xue et al. (2024, equation 19) on the error of third-order multistep on data prediction.

    The model's error at `lambda` is taken as `sigma^2 / alpha` of the variance-preserving process with that SNR, and
    enters by its weight in the final state. Errors of the first three steps are added as independent ones, as in the
    authors' code.
    """
    rho = torch.exp(-lam)
    model_error = rho**2 / torch.sqrt(1 + rho**2)
    count = len(lam) - 1
    independent = lam.new_zeros(())
    effect = lam.new_zeros(count)
    for step in range(count):
        order = min(step + 1, count - step, 3)
        nodes = slice(step - order + 1, step + 1)
        weights = adams_weights(lam[nodes], lam[step], lam[step + 1], rate=1.0) * torch.exp(lam[step + 1])
        error = weights * model_error[nodes]
        if step < 3 or step == count - 1:
            independent = independent + torch.linalg.norm(error)
        else:
            effect = effect + torch.nn.functional.pad(error, (nodes.start, count - nodes.stop))
    return independent + effect.abs().sum()


GRIDS: dict[str, Callable[[SDE, int, float], Tensor]] = {
    "uniform_t": _uniform_t,
    "quadratic_t": _quadratic_t,
    "uniform_log_snr": _uniform_log_snr,
    "log_angle": _log_angle,
    "karras": _karras,
    "optimised": _optimised,
}
