r"""The solver we recommend untuned: exponential Adams–Bashforth for data that look like a known Gaussian.

Noise prediction treats the model's whole output as unknown; data prediction treats `y / rho`, all of it noise, as
known. In between lies the exact ODE of the Gaussian that the data look like, `N(m, V diag(c_i^2) V^T)`
(`common.gaussian`). In its axes, `y = V^T (x / alpha - m)`, each number has `dy/drho = rho y / (rho^2 + c^2)` with its
own `c`, and only the residual `F`, by which data differ from a Gaussian, needs interpolation,

    dy/drho = rho y / (rho^2 + c^2) + F,        F = eps - rho y / (rho^2 + c^2),
    y_e / q_e = y_s / q_s + ∫_s^e (q F) / q^2 drho,        q = sqrt(rho^2 + c^2).

So it is exact for Gaussian data, in a step. (`c = infinity` is noise prediction, `c = 0` data prediction; `q F` is, up
to sign and scale, velocity prediction of normalised data. DPM-Solver-v3, Zheng et al. 2023, arXiv:2310.13268, measures
such a splitting on a model.) Where the Gaussian is not known, `N(0, c^2 I)` stands for it, with `c = data_std`.

At `T` data and Gaussian can hardly be told apart: `F` is nearly nothing, but for what a network has learnt wrongly,
most of which is the same for all states. So in few steps its answer to `y = 0` stands for all of them, which is one
call on one example, and `N` calls make `N + 1` steps. (Dockhorn et al. 2022 take such a first step,
"analytical first step", without the mean.) Above `T` it is nothing, too: there, polynomials go through zeros where they
would want earlier values, as many steps before `T` as it takes.

Nothing happens far above the largest scale of the data or below its smallest. The times are therefore uniform, and
the polynomial through the last three values of `q F` (four, where steps are many) is one, in

    v = log((rho + A) / (rho + B)),

which is half the log-SNR between these scales and flat outside. The last step, to `sigma = 0`, is one like the
others. The fewer the steps, the less a parabola says of the next one: below six calls, `N / 6` of its weights are
blended with the line's. `A` and `B` are multiples of the Gaussian's largest standard deviation, chosen on Gaussian
mixtures of several shapes and processes and a network (`docs/solvers.md`).

A model that is a flow and no score is another matter: `solvers.fast.straight`.

With `eta > 0` the ODE is left for noise while pictures take shape, `0.3 c <= rho <= 3 c`, `c` the data's standard
deviation: a step that ends there goes further down, and noise brings it back, as in DDIM (Song et al. 2021,
arXiv:2010.02502, equation 16). The ODE keeps the errors that a trained score makes; noise forgets some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.gaussian import Gaussian, isotropic
from score_sde.sde import SDE, Marginals
from score_sde.sde.marginals import GONE
from score_sde.solvers.fast.methods import ancestral_split
from score_sde.solvers.fast.straight import straight_table, straight_times
from score_sde.solvers.fast.table import MOST_STEPS_OF_TABLE, Table
from score_sde.solvers.fast.table_solver import TableSolver
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.grids import Grid, number_of_times, time_grid
from score_sde.solvers.options import MAX_ORDER, check_at_least, check_between, check_positive
from score_sde.solvers.process import last_time
from score_sde.solvers.quadrature import gauss_legendre, lagrange

# In units of the data's standard deviation: where noise, if it is asked for, is added.
_NOISE_BEGINS = 3.0
_NOISE_ENDS = 0.3
# In units of the largest noise: beyond this, a standard deviation of data is a mistake.
_FAR = 1000.0
# A last step is long if it is so many times as long as the one before it; the noise of the outputs that its polynomial
# goes through then differs by this factor, if there are not more steps than these in between.
_LONG, _WIDE, _FURTHEST = 1.5, 1.25, 32
# Of the noise at T, in units of the largest standard deviation: from here on the first step may be free.
_HIDDEN = 20.0
# In units of the noise where nothing of the data is left: more is as good as infinite.
_INFINITE = 0.5
# No direction's standard deviation is taken for smaller than the largest's by more than this factor.
_RANGE = 1000.0


@dataclass(frozen=True)
class Warp:
    """The variable `v = log((rho + A) / (rho + B))`, which grows as the noise falls.

    Attributes:
        largest: `A`.
        smallest: `B`.
    """

    largest: float
    smallest: float

    def __call__(self, rho: Tensor) -> Tensor:
        """Return `v`; shape of `rho`."""
        return torch.log(rho + self.largest) - torch.log(rho + self.smallest)

    def inverse(self, v: Tensor) -> Tensor:
        """Return `rho`; shape of `v`."""
        return (self.largest - self.smallest * torch.exp(v)) / torch.expm1(v)


class Rule(NamedTuple):
    """How a number of steps is spent.

    Attributes:
        largest: `A`, in units of the Gaussian's largest standard deviation.
        smallest: `B`, in the same units.
        order: number of outputs the polynomial goes through.
        free: whether the first step takes no call.
        share: that of this polynomial's weights, the rest being those of one of a degree less.
    """

    largest: float
    smallest: float
    order: int
    free: bool
    share: float = 1.0


# With few steps and with many, which begin at so many.
_FEW, _MANY, _MANY_STEPS = Rule(1.5, 1 / 32, 3, True), Rule(8, 1 / 60, 4, False), 16
# From so many calls on, few steps have the whole polynomial's weights.
_WHOLE = 6
# The same as before where the Gaussian is not known.
_FEW_UNKNOWN, _MANY_UNKNOWN, _MANY_STEPS_UNKNOWN = Rule(10, 1 / 50, 3, False), Rule(10, 1 / 50, 4, False), 20


def recommended(
    num_steps: int | None = None,
    grid: Grid | None = None,
    t_min: float | None = None,
    denoise: bool = True,
    threshold: Threshold | None = None,
    order: int | None = None,
    data_std: float = 0.5,
    eta: float = 0.0,
    free: bool | None = None,
) -> TableSolver:
    """Return solver `default`.

    Args:
        num_steps: number of calls of the model; that of the times of `grid`, less the free one, if left out.
        grid: see `time_grid`; its own if left out.
        t_min: smallest time at which the model may be asked; the process's own if left out.
        denoise: end at `sigma = 0`; if not, stop at `t_min`.
        threshold: see `solvers.fast.thresholding`.
        order: number of outputs the polynomial goes through; if left out, 3, or 4 where steps are many and there is no
            noise, which high orders amplify.
        data_std: standard deviation of the data, per dimension, for models that do not know their Gaussian.
        eta: amount of noise while pictures take shape, up to 1; none if 0.
        free: whether the first step, from `T`, takes no call for the batch, but one for a single example; if left out,
            where the model knows its Gaussian, steps are few, and times are this solver's own.

    Raises:
        UserError: an option is out of range.
    """
    listed = num_steps is None and grid is not None
    number = number_of_times(num_steps, grid) - (listed and bool(free))
    check_between("num_steps", number, 1, MOST_STEPS_OF_TABLE)
    if order is not None:
        check_between("order", order, 1, MAX_ORDER)
    check_positive("data_std", data_std)
    check_at_least("eta", eta, 0)

    def make_table(sde: SDE, known: Gaussian | None) -> Table:
        smallest = last_time(sde, t_min)
        rule = rule_for(number, known is not None, eta)
        is_free = rule.free and grid is None and hides(sde, known) if free is None else free
        rule = rule._replace(free=is_free)
        if order is not None:
            rule = rule._replace(order=order, share=1.0)
        gaussian = isotropic(data_std) if known is None else known
        count = number + is_free
        if grid is None:
            times = recommended_times(sde, count, smallest, denoise, gaussian, rule)
        else:
            times = time_grid(sde, grid, count, smallest)
        end = None if denoise else sde.at(smallest)
        table = recommended_table(sde, times, end, gaussian, rule, eta)
        return table if known is not None or is_free else in_own_axes(table)

    def make_flow_table(sde: SDE) -> Table:
        smallest = last_time(sde, t_min)
        if grid is None:
            times = straight_times(sde, number, smallest, denoise)
        else:
            times = time_grid(sde, grid, number, smallest)
        return straight_table(sde, times, None if denoise else sde.at(smallest))

    # Noise is refused by the table that has it.
    return TableSolver(make_table, threshold, make_flow_table=None if eta else make_flow_table)


def rule_for(num_steps: int, known: bool, eta: float = 0.0) -> Rule:
    """Return how so many steps are spent, where the Gaussian is known or is not."""
    few, many, least = (_FEW, _MANY, _MANY_STEPS) if known else (_FEW_UNKNOWN, _MANY_UNKNOWN, _MANY_STEPS_UNKNOWN)
    rule = many if num_steps >= least else few
    if known:
        rule = rule._replace(share=min(1.0, num_steps / _WHOLE))
    return rule._replace(order=min(rule.order, 3)) if eta else rule


def hides(sde: SDE, known: Gaussian | None) -> bool:
    """Return whether the noise at `T` is so far above the data that data and Gaussian cannot be told apart there."""
    return known is not None and float(sde.at(sde.T).rho) >= _HIDDEN * float(known.scales.max())


def warp(gaussian: Gaussian, rule: Rule) -> Warp:
    """Return the variable in which times are uniform and outputs are interpolated."""
    largest = float(gaussian.scales.max())
    return Warp(rule.largest * largest, rule.smallest * largest)


def recommended_times(sde: SDE, num_steps: int, t_min: float, denoise: bool, gaussian: Gaussian, rule: Rule) -> Tensor:
    """Return times uniform in `v`, from `T` to a step short of `sigma = 0` (or of `t_min`), float64, `(num_steps,)`.

    Raises:
        UserError: the process's noise lies far below the data.
    """
    limits = sde.at(torch.tensor([sde.T, t_min], dtype=torch.float64))
    data_std = float(gaussian.scales.max())
    if data_std > _FAR * float(limits.rho[0]):
        raise UserError(f"data_std={data_std:g} lies far above this process's noise, up to {float(limits.rho[0]):.3g}")
    variable = warp(gaussian, rule)
    first, last = variable(limits.rho)
    if denoise:
        to_zero = (variable(torch.zeros((), dtype=torch.float64)) - first) / num_steps
        # The model is not asked below t_min, however short the steps.
        step = torch.minimum(to_zero, (last - first) / max(num_steps - 1, 1))
    else:
        step = (last - first) / num_steps
    rho = variable.inverse(first + step * torch.arange(num_steps, dtype=torch.float64))
    times = sde.time_at_log_snr(-2 * torch.log(rho)).clamp(t_min, sde.T)
    times[0] = sde.T
    return times


def recommended_table(
    sde: SDE,
    times: Tensor,
    end: Marginals | None,
    gaussian: Gaussian,
    rule: Rule,
    eta: float | Sequence[float] = 0.0,
) -> Table:
    """Return the table for given times and end (`sigma = 0` if None), differentiable with respect to `times`; `eta` is
    the noise's amount while pictures take shape, or that of each step, of which the last adds none."""
    nodes, variable = sde.at(times), warp(gaussian, rule)
    nothing = torch.zeros(1, dtype=torch.float64)
    rho = torch.cat([nodes.rho, nothing if end is None else end.rho.reshape(1)])
    alpha = torch.cat([nodes.alpha, nothing + 1 if end is None else end.alpha.reshape(1)])
    scales = gaussian.scales.clamp(min=float(gaussian.scales.max()) / _RANGE)
    amounts = noise_amounts(rho, gaussian, eta) if isinstance(eta, float | int) else list(eta)
    # `(n + 1, S)`.
    q, v = torch.sqrt(rho[:, None] ** 2 + scales**2), variable(rho)
    apart = _apart(rho, v, rule.order)
    memory = 1 + (rule.order - 1) * max(apart, 1)
    zeros = rule.order - 1 if rule.free else 0
    nodes_of_v = torch.cat([v[0] - (v[1] - v[0]) * torch.arange(zeros, 0, -1), v])
    state, outputs, noise = [], [], []
    for k in range(len(times)):
        down, up = noisy_step(rho[k], rho[k + 1], amounts[k])
        q_down = torch.sqrt(down**2 + scales**2)
        is_long = bool(apart) and k + 1 == len(times)
        ages = range(0, min(memory, k + 1), apart) if is_long else range(min(rule.order, k + 1))
        past = [k - age for age in ages]
        if is_long:
            weights = _weights(rho[past], _itself, rho[k], down, scales)
        else:
            known = nodes_of_v[: zeros + k + 1].flip(0)[: rule.order]
            weights = _weights(known, variable, rho[k], down, scales)
            if rule.share < 1 and len(known) == rule.order > 1:
                lower = _weights(known[:-1], variable, rho[k], down, scales)
                weights = rule.share * weights + (1 - rule.share) * torch.cat([lower, torch.zeros_like(weights[:1])])
            weights = weights[: len(past)]
        weights = q_down * weights * q[past] * alpha[k + 1]
        row = [weights.new_zeros(len(scales))] * memory
        for age, weight in zip(ages, weights, strict=True):
            row[age] = weight
        state.append(q_down / q[k] * alpha[k + 1] / alpha[k])
        outputs.append(torch.stack(row))
        noise.append(up * alpha[k + 1])
    blend = -rho[:-1, None] / q[:-1] ** 2 / nodes.alpha[:, None]
    return Table(
        times,
        torch.stack(state),
        torch.stack(outputs),
        torch.stack(noise).detach(),
        "noise",
        blend,
        None if end is None else end.t,
        gaussian,
        rule.free,
    )


def _apart(rho: Tensor, v: Tensor, order: int) -> int:
    """Return by how many steps the outputs lie apart that the last step's polynomial goes through; 0 for a last step
    like the others.

    The model is not asked below `t_min`, so where steps are many the last, to `sigma = 0`, is many times as long as the
    others. There outputs are smooth in `rho`, and a polynomial in it goes through some that lie far enough apart not to
    magnify every rounding error of a network.
    """
    rho, v = rho.detach(), v.detach()
    if len(v) < 3 or order == 1 or rho[-1] > 0 or v[-1] - v[-2] < _LONG * (v[-2] - v[-3]):
        return 0
    before = rho[:-1].flip(0)
    apart = int((before < _WIDE * before[0]).sum())
    return max(1, min(apart, _FURTHEST, (len(before) - 1) // (order - 1)))


def in_own_axes(table: Table) -> Table:
    """Return a table along the axes of `N(0, c^2 I)` as one that needs no axes."""
    return table._replace(
        state=table.state[:, 0], outputs=table.outputs[:, :, 0], blend=table.blend[:, 0], gaussian=None
    )


def noise_amounts(rho: Tensor, gaussian: Gaussian, eta: float) -> list[float]:
    """Return the amount of noise of each of the steps between `rho` `(n + 1,)`: `eta` for those that end while pictures
    take shape, none before and after."""
    typical = float(gaussian.scales[gaussian.which].square().mean().sqrt())
    within = (_NOISE_ENDS * typical <= rho[1:]) & (rho[1:] <= _NOISE_BEGINS * typical)
    return (eta * within.double()).tolist()


def noisy_step(start: Tensor, end: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Return the noise level that a step from `start` to `end` goes down to, and the standard deviation of the noise
    that brings it back to `end`: DDIM's for `eta > 0`, and none without."""
    if not eta > 0 or end == 0:
        return end, torch.zeros_like(end)
    return ancestral_split(start, end, eta)


def _itself(rho: Tensor) -> Tensor:
    return rho


def _weights(nodes: Tensor, variable: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, scales: Tensor) -> Tensor:
    """Return `∫ l_j / q^2 drho` from `start` to `end` for the scales `(S,)`, `(len(nodes), S)`, with the polynomials in
    a variable, which is known at the nodes."""
    points, point_weights = gauss_legendre()
    if start * GONE > _INFINITE:
        # In the angle `arctan(rho / unit)`, in which infinity is near.
        unit = torch.maximum(end, scales.max())
        first, last = torch.atan(start / unit), torch.atan(end / unit)
        angle = first + (last - first) * points
        rho = unit * torch.tan(angle)
        rate = (last - first) * point_weights * unit
        density = rate[:, None] / (
            unit**2 * torch.sin(angle)[:, None] ** 2 + scales**2 * torch.cos(angle)[:, None] ** 2
        )
    else:
        rho = start + (end - start) * points
        density = ((end - start) * point_weights)[:, None] / (rho[:, None] ** 2 + scales**2)
    at = variable(rho)
    return torch.stack([lagrange(nodes, j, at) for j in range(len(nodes))]) @ density
