"""Embedded Runge-Kutta methods with a step size for each example.

The error estimate `e` of a step is measured against the tolerances, for each example by itself,

    E = norm( e / (atol + rtol max(|y_0|, |y_1|)) ),

and the step is accepted if `E <= 1`. The next one is `0.9 h E^(-0.7/k) E_previous^(0.4/k)` for a method of order `k`
(the PI controller of Gustafsson 1991; Hairer & Wanner, Solving Ordinary Differential Equations II, section IV.2); after
a rejection, `0.9 h E^(-1/k)`. All examples attempt their next step together, in one call of the field a stage, each at
its own place; those that have arrived wait. So the batch keeps its size and order, and what becomes of an example does
not depend on the others: it is the same, to rounding, in any company. (Rounding may tip a step that is just accepted;
the result then moves within its tolerance. In float32 that happened to one of 64 trajectories of a network.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from score_sde.sde.marginals import on_host
from score_sde.solvers.ode.tableaus import Tableau

# Called as field(s, y), with `s` `()` or `(B,)` and `y` `(B, n)`; returns `dy/ds`, shape of `y`.
Field = Callable[[Tensor, Tensor], Tensor]
# Called as visit(s, y, slope) with states a step starts from, and the slope there; None where it is not known.
Visit = Callable[[Tensor, Tensor, Tensor | None], None]
# Sizes of errors `(B, n)`, shape `(B,)`.
Norm = Callable[[Tensor], Tensor]

# Errors are taken as at least this, which keeps their negative powers finite.
_SMALLEST_ERROR = 1e-10
_SMALLEST_PREVIOUS_ERROR = 1e-4


class StepFailureError(Exception):
    """A solution that cannot be followed further; the message says what happened.

    Args:
        message: a clause without a full stop.
        s: where it happened; None if not known.
        example: to which example of the batch; None if not to one in particular.
    """

    def __init__(self, message: str, s: float | None = None, example: int | None = None) -> None:
        super().__init__(message)
        self.s = s
        self.example = example


def root_mean_square(error: Tensor) -> Tensor:
    """Return `sqrt(mean(e_i^2))` of each row of `(B, n)`; shape `(B,)`."""
    return error.square().mean(1).sqrt()


def integrate_per_example(
    field: Field,
    y: Tensor,
    start: float,
    end: float,
    tableau: Tableau,
    *,
    rtol: float,
    atol: float,
    norm: Norm = root_mean_square,
    first_step: float | None = None,
    max_step: float = math.inf,
    safety: float = 0.9,
    ifactor: float = 10.0,
    dfactor: float = 0.2,
    max_num_steps: int = 10_000,
    visit: Visit | None = None,
) -> Tensor:
    """Return the solution at `end` of `dy/ds = field(s, y)` from `y` `(B, n)` at `start`; same shape.

    The field is called with `s` of shape `(B,)`, float64 and on the CPU, between `start` and `end`. Options have
    torchdiffeq's names.

    Args:
        field: right-hand side.
        y: state at `start`.
        start: where the solution begins.
        end: where it ends; may lie below `start`.
        tableau: coefficients of the method.
        rtol: relative tolerance.
        atol: absolute tolerance.
        norm: size of each example's error.
        first_step: length of the first attempted step; found from the slopes if left out.
        max_step: largest step.
        safety: the 0.9 above.
        ifactor: largest growth of a step.
        dfactor: largest reduction of a step, as a factor.
        max_num_steps: largest number of attempted steps.
        visit: called at `start`, and whenever an example has moved, but not at the end of the last of them.

    Raises:
        StepFailureError: steps become too small or too many, or the field is not finite.
    """
    direction = math.copysign(1.0, end - start)
    s = torch.full(y.shape[:1], start, dtype=torch.float64)
    slope = field(s, y)
    check_finite(slope, s)
    if first_step is None:
        step = _first_step(field, y, s, slope, end, tableau.order, rtol, atol, norm)
    else:
        step = torch.full_like(s, first_step)
    previous = torch.ones_like(s)
    visited: Tensor | None = None
    for _ in range(max_num_steps):
        if visit is not None and not (visited is not None and torch.equal(s, visited)):
            visit(s, y, slope)
            visited = s
        step = step.clamp(max=max_step)
        remaining = (end - s).abs()
        last = step >= remaining
        h = direction * torch.minimum(step, remaining)
        check_progress(s, h, last)
        y_next, slope_next, error = _attempt(field, y, s, h, slope, tableau)
        size = on_host(norm(error / (atol + rtol * torch.maximum(y.abs(), y_next.abs()))))
        size = size.nan_to_num(nan=math.inf).clamp(min=_SMALLEST_ERROR)
        accepted = size <= 1
        growth = safety * size ** (-0.7 / tableau.order) * previous ** (0.4 / tableau.order)
        shrinkage = safety * size ** (-1 / tableau.order)
        step = h.abs() * torch.where(accepted, growth.clamp(dfactor, ifactor), shrinkage.clamp(min=dfactor))
        previous = torch.where(accepted, size.clamp(min=_SMALLEST_PREVIOUS_ERROR), previous)
        s = torch.where(accepted, torch.where(last, end, s + h), s)
        moved = accepted.to(y.device)[:, None]
        y = torch.where(moved, y_next, y)
        slope = torch.where(moved, slope_next, slope)
        if bool((s == end).all()):
            return y
    slowest = int((end - s).abs().argmax())
    raise StepFailureError(f"{max_num_steps} steps were not enough", float(s[slowest]), slowest)


def _attempt(
    field: Field, y: Tensor, s: Tensor, h: Tensor, slope: Tensor, tableau: Tableau
) -> tuple[Tensor, Tensor, Tensor]:
    """Attempt a step of length `h` `(B,)`; return the solution, the slope there, and the estimated error."""
    length = h.to(y)[:, None]
    slopes = [slope]
    for node, row in zip(tableau.nodes, tableau.rows, strict=True):
        y_stage = y + length * _weighted_sum(row, slopes)
        slopes.append(field(s + node * h, y_stage))
    return y_stage, slopes[-1], length * _weighted_sum(tableau.error, slopes)


def _weighted_sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0:
            total.add_(slope, alpha=weight)
    return total


def _first_step(
    field: Field,
    y: Tensor,
    s: Tensor,
    slope: Tensor,
    end: float,
    order: int,
    rtol: float,
    atol: float,
    norm: Norm,
) -> Tensor:
    """Return a first step for each example, by one more call (Hairer, Nørsett & Wanner, … I, section II.4)."""
    tolerance = atol + rtol * y.abs()
    size, speed = on_host(norm(y / tolerance)), on_host(norm(slope / tolerance))
    guess = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp(max=abs(end - float(s[0])))
    h = math.copysign(1.0, end - float(s[0])) * guess
    slope_next = field(s + h, y + h.to(y)[:, None] * slope)
    bend = on_host(norm((slope_next - slope) / tolerance)) / guess
    largest = torch.maximum(speed, bend)
    step = torch.where(largest > 1e-15, (0.01 / largest) ** (1 / order), (guess * 1e-3).clamp(min=1e-6))
    return torch.minimum(100 * guess, step)


def check_finite(slope: Tensor, s: Tensor) -> None:
    """Raise `StepFailureError` if a slope `(B, n)` at `s` `(B,)` is not finite."""
    wrong = ~slope.isfinite().all(1).cpu()
    if bool(wrong.any()):
        example = int(wrong.long().argmax())
        raise StepFailureError("the slope is not finite", float(s[example]), example)


def check_progress(s: Tensor, h: Tensor, last: Tensor) -> None:
    """Raise `StepFailureError` if a step of length `h` `(B,)` from `s` `(B,)`, but for the last, leads nowhere."""
    stuck = (s + h == s) & ~last
    if bool(stuck.any()):
        example = int(stuck.long().argmax())
        raise StepFailureError("the step size vanished", float(s[example]), example)
