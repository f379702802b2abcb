r"""The solver we recommend untuned: exponential Adams–Bashforth for data of a known scale.

Noise prediction treats the model's whole output as unknown; data prediction treats `y / rho`, all of it noise, as
known. In between lies the exact ODE of `N(0, c^2 I)`, `dy/drho = rho y / (rho^2 + c^2)`: with `c` the data's standard
deviation it is right wherever the data look Gaussian, and only the residual `F` needs interpolation,

    dy/drho = rho y / (rho^2 + c^2) + F,        F = eps - rho y / (rho^2 + c^2),
    y_e / q_e = y_s / q_s + ∫_s^e (q F) / q^2 drho,        q = sqrt(rho^2 + c^2).

(`c = infinity` is noise prediction, `c = 0` data prediction; `q F` is, up to sign and scale, velocity prediction of
normalised data. DPM-Solver-v3, Zheng et al. 2023, arXiv:2310.13268, measures such a splitting on a model.)

Nothing happens far above the largest scale of the data or below its smallest. The times are therefore uniform, and
the polynomial through the last three values of `q F` (four, where steps are many) is one, in

    v = log((rho + 10 c) / (rho + c / 50)),

which is half the log-SNR between these scales and flat outside. The last step, to `sigma = 0`, is one like the
others: `N` calls make `N` steps. The two numbers were chosen on Gaussian mixtures of several shapes and processes
(`docs/solvers.md`), not on one model.

With `eta > 0` the ODE is left for noise while pictures take shape, `0.3 c <= rho <= 3 c`: a step that ends there goes
further down, and noise brings it back, as in DDIM (Song et al. 2021, arXiv:2010.02502, equation 16). The ODE keeps the
errors that a trained score makes; noise forgets some of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.sde import SDE, Marginals
from score_sde.solvers.fast.methods import ancestral_split
from score_sde.solvers.fast.recorder import Recorder
from score_sde.solvers.fast.table import MOST_STEPS_OF_TABLE, Table, TableSolver
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.grids import Grid, number_of_times, time_grid
from score_sde.solvers.options import MAX_ORDER, check_at_least, check_between, check_positive
from score_sde.solvers.process import last_time
from score_sde.solvers.quadrature import gauss_legendre, lagrange

# In units of the data's standard deviation: noise levels beyond which little happens.
_LARGEST_SCALE = 10.0
_SMALLEST_SCALE = 0.02
# In the same units: where noise, if it is asked for, is added.
_NOISE_BEGINS = 3.0
_NOISE_ENDS = 0.3
# In units of the largest noise: beyond this, a standard deviation of data is a mistake.
_FAR = 1000.0
# Steps from which on the fourth order is the better one, on most problems.
_MANY_STEPS = 20


def recommended(
    num_steps: int | None = None,
    grid: Grid | None = None,
    t_min: float | None = None,
    denoise: bool = True,
    threshold: Threshold | None = None,
    order: int | None = None,
    data_std: float = 0.5,
    eta: float = 0.0,
) -> TableSolver:
    """Return solver `default`.

    Args:
        num_steps: number of calls of the model, one a step; that of the times of `grid` if left out.
        grid: see `time_grid`; its own if left out.
        t_min: smallest time at which the model may be asked; the process's own if left out.
        denoise: end at `sigma = 0`; if not, stop at `t_min`.
        threshold: see `solvers.fast.thresholding`.
        order: number of outputs the polynomial goes through; `recommended_order` if left out.
        data_std: standard deviation of the data, per dimension.
        eta: amount of noise while pictures take shape, up to 1; none if 0.

    Raises:
        UserError: an option is out of range.
    """
    number = number_of_times(num_steps, grid)
    check_between("num_steps", number, 1, MOST_STEPS_OF_TABLE)
    chosen_order = recommended_order(number, eta) if order is None else order
    check_between("order", chosen_order, 1, MAX_ORDER)
    check_positive("data_std", data_std)
    check_at_least("eta", eta, 0)

    def make_table(sde: SDE) -> Table:
        smallest = last_time(sde, t_min)
        if grid is None:
            times = recommended_times(sde, number, smallest, denoise, data_std)
        else:
            times = time_grid(sde, grid, number, smallest)
        end = None if denoise else sde.at(smallest)
        return recommended_table(sde, times, end, chosen_order, data_std, eta)

    return TableSolver(make_table, threshold)


def recommended_order(num_steps: int, eta: float = 0.0) -> int:
    """Return 3, or 4 where steps are many and there is no noise, which high orders amplify."""
    return 4 if num_steps >= _MANY_STEPS and not eta else 3


def recommended_times(sde: SDE, num_steps: int, t_min: float, denoise: bool, data_std: float) -> Tensor:
    """Return times uniform in `v`, from `T` to a step short of `sigma = 0` (or of `t_min`), float64, `(num_steps,)`.

    Raises:
        UserError: the process's noise lies far below `data_std`.
    """
    limits = sde.at(torch.tensor([sde.T, t_min], dtype=torch.float64))
    if data_std > _FAR * float(limits.rho[0]):
        raise UserError(f"data_std={data_std:g} lies far above this process's noise, up to {float(limits.rho[0]):.3g}")
    first, last = (_warp(rho, data_std) for rho in limits.rho)
    if denoise:
        to_zero = (_warp(torch.zeros((), dtype=torch.float64), data_std) - first) / num_steps
        # The model is not asked below t_min, however short the steps.
        step = torch.minimum(to_zero, (last - first) / max(num_steps - 1, 1))
    else:
        step = (last - first) / num_steps
    v = first + step * torch.arange(num_steps, dtype=torch.float64)
    rho = data_std * (_LARGEST_SCALE - _SMALLEST_SCALE * torch.exp(v)) / torch.expm1(v)
    times = sde.time_at_log_snr(-2 * torch.log(rho)).clamp(t_min, sde.T)
    times[0] = sde.T
    return times


def recommended_table(
    sde: SDE, times: Tensor, end: Marginals | None, order: int, data_std: float, eta: float = 0.0
) -> Table:
    """Return the table for given times and end (`sigma = 0` if None), differentiable with respect to `times`."""
    nodes = sde.at(times)
    recorder = Recorder(sde, len(times), "residual", denoises=False, data_std=data_std)
    rhos = [*nodes.rho.unbind(), torch.zeros((), dtype=torch.float64) if end is None else end.rho]
    v = _warp(nodes.rho, data_std)
    y, residuals = recorder.start, []
    for k in range(len(times)):
        residuals.append(_q(rhos[k], data_std) * recorder.evaluate(y, nodes[k]).recorded)
        past = slice(max(0, k + 1 - order), k + 1)
        down, up = noisy_step(rhos[k], rhos[k + 1], data_std, eta)
        weights = _weights(v[past], rhos[k], down, data_std)
        y = y / _q(rhos[k], data_std) + sum(w * r for w, r in zip(weights, residuals[past], strict=True))
        y = _q(down, data_std) * y
        if up > 0:
            y = y + up * recorder.noise()
    return recorder.table(y, end)


def noisy_step(start: Tensor, end: Tensor, data_std: float, eta: float) -> tuple[Tensor, Tensor]:
    """Return the noise level that a step from `start` to `end` goes down to, and the standard deviation of the noise
    that brings it back to `end`: DDIM's, while pictures take shape; none before and after."""
    if not (eta > 0 and _NOISE_ENDS * data_std <= end <= _NOISE_BEGINS * data_std):
        return end, torch.zeros_like(end)
    return ancestral_split(start, end, eta)


def _weights(nodes: Tensor, start: Tensor, end: Tensor, data_std: float) -> Tensor:
    """Return `∫ l_j(v) / q^2 drho` from `start` to `end`, shape of `nodes`."""
    points, point_weights = gauss_legendre()
    rho = start + (end - start) * points
    density = (end - start) * point_weights / _q(rho, data_std) ** 2
    v = _warp(rho, data_std)
    return torch.stack([lagrange(nodes, j, v) for j in range(len(nodes))]) @ density


def _q(rho: Tensor, data_std: float) -> Tensor:
    return torch.sqrt(rho**2 + data_std**2)


def _warp(rho: Tensor, data_std: float) -> Tensor:
    """Return `v`, which grows as the noise falls."""
    return torch.log(rho + _LARGEST_SCALE * data_std) - torch.log(rho + _SMALLEST_SCALE * data_std)
