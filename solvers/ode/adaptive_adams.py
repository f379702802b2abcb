r"""An Adams method whose steps and orders each example has for itself, with one call a step.

Through the slopes at `s_n` and before goes a polynomial, in Newton's form with the divided differences `d_i` of slopes:

    P(s) = sum_i d_i pi_i(s),        pi_i(s) = (s - s_n) (s - s_{n-1}) … (s - s_{n-i+1})

Its integral predicts the state at `s_{n+1} = s_n + h`. There the slope is asked for, once; with it among them there are
divided differences `c_i`, with `c_0` the new slope and `c_{i+1} = (c_i - d_i) / (s_{n+1} - s_{n-i})`, and the integral
of that polynomial is the step ("PEC"; Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, section
III.5, after Krogh):

    y_{n+1} = y_n + sum_{i <= k} g_i c_i,        g_i = ∫ (s - s_{n+1}) pi_{i-1}(s) ds  from s_n to s_{n+1},  g_0 = h

Nothing but the `d_i` and their places is remembered: those of the next step are the `c_i`.

*Error and order.* The term `g_j c_j` is what order `j + 1` differs by from order `j`: the error of the lower one, for
every `j` at once, from the same slopes. With the order in use, the step is accepted if the norm of its last term,
relative to the tolerance as in `solvers.ode.runge_kutta`, is at most the share `1/3` below; the solution is that of the
higher order. The next step takes that order, of those up to one above, which promises the largest: `0.75 h (E_j /
share)^(-1/(j+1))`. It starts at order 1 with a step too small for anything to happen.

*The share.* Errors of steps add up, and a tolerance is a promise about the end. With a third of the tolerance a step,
at 1e-3, the error at the end is about the tolerance (docs/likelihood.md has it for mixtures and networks). The number
of steps grows roughly as tolerance^(-1/8), and what each may add to the error falls likewise.

As there, all examples attempt a step together, in one call, each at its own place, and those that have arrived wait:
what becomes of an example does not depend on the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from score_sde.sde.marginals import on_host
from score_sde.solvers.ode.runge_kutta import (
    Field,
    Norm,
    StepFailureError,
    Visit,
    check_finite,
    check_progress,
    root_mean_square,
)
from score_sde.solvers.quadrature import gauss_legendre

MAX_ORDER = 4
# The share of the tolerance that a step may take, at this tolerance or looser ones.
_SHARE, _AT_TOLERANCE = 1 / 3, 1e-3
# The first step, as a part of the way: most of the gain of knowing it better is one call.
_FIRST = 2e-3
# The largest growth of a step: of the first, low orders, and later, when the past would be too near.
_GROWTH_AT_START, _GROWTH = 2.5, 1.5
_LEAST_GROWTH, _SHRINKAGE = 0.3, (0.1, 0.9)
_SMALLEST_ERROR = 1e-10


def integrate_adaptive_adams(
    field: Field,
    y: Tensor,
    start: float,
    end: float,
    *,
    rtol: float,
    atol: float,
    norm: Norm = root_mean_square,
    integrals: int = 0,
    first_step: float | None = None,
    max_step: float = math.inf,
    safety: float = 0.75,
    max_order: int = MAX_ORDER,
    max_num_steps: int = 10_000,
    visit: Visit | None = None,
) -> Tensor:
    """Return the solution at `end` of `dy/ds = field(s, y)` from `y` `(B, n)` at `start`; same shape.

    The field is called with `s` of shape `(B,)`, float64 and on the CPU, between `start` and `end`.

    Args:
        field: right-hand side.
        y: state at `start`.
        start: where the solution begins.
        end: where it ends; may lie below `start`.
        rtol: relative tolerance.
        atol: absolute tolerance.
        norm: size of each example's error.
        integrals: so many of the last numbers of a state are integrals beside it, for which `atol` alone counts.
        first_step: length of the first attempted step; a five-hundredth of the way if left out.
        max_step: largest step.
        safety: the 0.75 above.
        max_order: the most past slopes that a step uses.
        max_num_steps: largest number of attempted steps.
        visit: called at `start`, and whenever an example has moved, but not at the end of the last of them, with what
            was predicted, of which the slope is known.

    Raises:
        StepFailureError: steps become too small or too many, or the field is not finite.
    """
    direction = math.copysign(1.0, end - start)
    s = torch.full(y.shape[:1], start, dtype=torch.float64)
    slope = field(s, y)
    check_finite(slope, s)
    # The divided differences `d_i`, and their places; as yet one is known.
    differences = [slope] + [torch.zeros_like(slope)] * max_order
    places = [s] + [s - direction * (1 + i) for i in range(max_order)]
    known, order = torch.ones_like(s, dtype=torch.int64), torch.ones_like(s, dtype=torch.int64)
    step = torch.full_like(s, _FIRST * abs(end - start) if first_step is None else first_step)
    share, orders = share_of_tolerance(max(rtol, atol)), torch.arange(1, max_order + 1)
    asked, visited = y, None
    for _ in range(max_num_steps):
        if visit is not None and not (visited is not None and torch.equal(s, visited)):
            visit(s, asked, differences[0])
            visited = s
        remaining = (end - s).abs()
        arrived = remaining == 0
        length, last = _attempted(step.clamp(max=max_step), remaining)
        # Those that have arrived are given some length, and what comes of it is left.
        h = direction * torch.where(arrived, 1.0, length)
        check_progress(s, h, last | arrived)
        s_next = torch.where(last | arrived, end, s + h)

        of_past = _integrals(places[:max_order], s, h)
        # One more than the order, where there is one: the slope is asked for where the state will be, more nearly.
        used = torch.minimum(order + 1, known)
        y_next = y + _weighted(of_past[:max_order], differences, used - 1)
        y_next = torch.where(_column(arrived, y), y, y_next)
        asked_next = y_next
        new = [field(s_next, y_next)]
        for difference, place in zip(differences[:max_order], places, strict=False):
            new.append((new[-1] - difference) / _column(s + h - place, y))
        of_new = _integrals([s + h, *places[: max_order - 1]], s, h)
        y_next = y + _weighted(of_new, new, order)

        magnitude = torch.maximum(y.abs(), y_next.abs())
        magnitude[:, y.shape[1] - integrals :] = 0
        scale = atol + rtol * magnitude
        sizes = [norm(_column(weight, y) * c / scale) for weight, c in zip(of_new[1:], new[1:], strict=True)]
        errors = (on_host(torch.stack(sizes, 1)) / share).nan_to_num(nan=math.inf).clamp(min=_SMALLEST_ERROR)
        moved = (errors.gather(1, order[:, None] - 1)[:, 0] <= 1) & ~arrived

        promised = safety * errors ** (-1 / (orders + 1))
        promised = torch.where(orders <= torch.minimum(known, order + 1)[:, None], promised, 0.0)
        growth, best = promised.max(1)
        # As long as every order was better than the one below, the next, of which nothing is known, is tried.
        climbs = moved & (order == known) & (best + 1 >= order)
        order_next = torch.where(climbs, order + 1, best + 1)
        most = torch.where(order <= 2, _GROWTH_AT_START, _GROWTH)
        growth = torch.where(moved, torch.minimum(growth.clamp(min=_LEAST_GROWTH), most), growth.clamp(*_SHRINKAGE))

        step = torch.where(arrived, step, length * growth)
        known = torch.where(moved, (known + 1).clamp(max=max_order), known)
        order = torch.where(arrived, order, torch.minimum(order_next, known))
        there = _column(moved, y)
        y, asked = torch.where(there, y_next, y), torch.where(there, asked_next, asked)
        differences = [torch.where(there, c, d) for c, d in zip(new, differences, strict=True)]
        places = [torch.where(moved, a, b) for a, b in zip([s_next, *places[:-1]], places, strict=True)]
        s = torch.where(moved, s_next, s)
        if bool((s == end).all()):
            return y
    slowest = int((end - s).abs().argmax())
    raise StepFailureError(f"{max_num_steps} steps were not enough", float(s[slowest]), slowest)


def share_of_tolerance(tolerance: float) -> float:
    """Return the part of the tolerance that the error of one step may be."""
    return _SHARE * min(1.0, tolerance / _AT_TOLERANCE) ** (1 / 8)


def _attempted(step: Tensor, remaining: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of the next steps, and which of them are the last; two last ones are about equally long."""
    last = step >= 0.999 * remaining
    two = ~last & (step > 0.5 * remaining)
    return torch.where(last, remaining, torch.where(two, 0.55 * remaining, step)), last


def _integrals(zeros: list[Tensor], s: Tensor, h: Tensor) -> list[Tensor]:
    """Return the integrals from `s` to `s + h` of 1 and of the products of the first of `(σ - zero)`; `(B,)` each."""
    points, weights = gauss_legendre()
    at = s[:, None] + h[:, None] * points
    product, found = torch.ones_like(at), [h]
    for zero in zeros:
        product = product * (at - zero[:, None])
        found.append(h * (product @ weights))
    return found


def _weighted(weights: list[Tensor], terms: list[Tensor], last: Tensor) -> Tensor:
    """Return the sum of the terms `(B, n)` times their weights `(B,)`, up to the number `last` `(B,)` of each row."""
    total = torch.zeros_like(terms[0])
    for i, (weight, term) in enumerate(zip(weights, terms, strict=False)):
        total = total + _column(torch.where(i <= last, weight, 0.0), total) * term
    return total


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Return `(B,)` as `(B, 1)`, in the dtype, but for truth values, and on the device of states."""
    moved = values.to(like.device) if values.dtype == torch.bool else values.to(like)
    return moved[:, None]
