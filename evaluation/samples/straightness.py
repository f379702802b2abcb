r"""How straight a model's trajectories are, from noise to data: few steps are enough where they are.

Under rectified flow a state is a mean of data and noise, and every process is that one in other units:

    u = x / (alpha + sigma),        tau = sigma / (alpha + sigma),        du/dtau = eps_hat - D

Straightness is the mean square deviation of the flow from the straight line to its end, in parts of that line's own
square (Liu et al. 2023, arXiv:2209.03003, section 2.2, where it is not divided):

    S = ∫ E ||eps_hat - D - (u_1 - u_0) / (tau_1 - tau_0)||^2 dtau / ∫ E ||(u_1 - u_0) / (tau_1 - tau_0)||^2 dtau

0 is a straight line, which Euler's method follows in one step. The integral is a trapezoidal rule, at times equidistant
in `tau` from `T` to `t_min`, and the trajectories are those of `dpmpp_2m` there.
"""

from __future__ import annotations

import torch

from score_sde.common.arguments import checked
from score_sde.common.float64 import in_float64
from score_sde.solvers import Model, get_solver
from score_sde.solvers.base import States
from score_sde.solvers.options import MOST_STEPS, check_between
from score_sde.solvers.process import last_time


@checked
def straightness(model: Model, x_T: States, *, num_steps: int = 64) -> float:
    """Return `S`, of the trajectories from latents `x_T` `(B, *dims)`.

    Args:
        model: any model, one that is a flow and no score among them.
        x_T: the latents, at `T`.
        num_steps: network calls.

    Raises:
        UserError: the process cannot be solved, or there are too few steps.
    """
    check_between("num_steps", num_steps, 3, MOST_STEPS)
    sde = model.sde
    ends = sde.at(torch.tensor([sde.T, last_time(sde, None)], dtype=torch.float64))
    first, last = (ends.sigma / (ends.alpha + ends.sigma)).tolist()
    tau = torch.linspace(first, last, num_steps, dtype=torch.float64)
    times = sde.time_at_log_snr(2 * torch.log((1 - tau) / tau))
    times[0], times[-1] = ends.t
    solver = get_solver("dpmpp_2m", grid=times, t_min=float(times[-1]))
    states = solver(model, x_T, trajectory=True).trajectory[:-1]
    rates, places = [], []
    for state in states:
        assert state.denoised is not None
        x, denoised = in_float64(state.x), in_float64(state.denoised)
        alpha, sigma = sde.at(state.t).to(x)
        rates.append((x - alpha * denoised) / sigma - denoised)
        places.append(x / (alpha + sigma))
    line = (places[-1] - places[0]) / (last - first)
    missed = torch.stack([(rate - line).square().sum() for rate in rates]).cpu()
    between = float(torch.trapezoid(missed, tau).abs())
    return between / (abs(last - first) * float(line.square().sum()))
