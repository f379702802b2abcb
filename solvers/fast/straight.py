r"""What solver `default` does with a model that is a flow and no score (`common.score`): go straight.

Pairs that were coupled have trajectories that are nearly lines in the coordinates of rectified flow, in which a state
is a mean of data and noise under any process,

    u = x / (alpha + sigma) = y / (1 + rho),     tau = sigma / (alpha + sigma) = rho / (1 + rho),     du/dtau = eps - D,

and no longer those of a Gaussian's score, of which `default` takes its own. The times are uniform in `tau`, and the
slope is the line through its last two values (Adams and Bashforth), so that lines are followed exactly in any steps,
and what bends with order 2; the last step, to `sigma = 0`, is one like the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.sde import SDE, Marginals
from score_sde.solvers.fast.recorder import Recorder
from score_sde.solvers.fast.table import Table


def straight_times(sde: SDE, num_steps: int, t_min: float, denoise: bool) -> Tensor:
    """Return times uniform in `tau`, from `T` to a step short of `sigma = 0` (or of `t_min`), float64, `(num_steps,)`.

    The model is not asked below `t_min`, however short the steps.
    """
    ends = sde.at(torch.tensor([sde.T, t_min], dtype=torch.float64))
    first, least = (ends.rho / (1 + ends.rho)).tolist()
    last = max(first / num_steps, least) if denoise else least + (first - least) / num_steps
    tau = torch.linspace(first, last, num_steps, dtype=torch.float64)
    times = sde.time_at_log_snr(2 * torch.log((1 - tau) / tau)).clamp(t_min, sde.T)
    times[0] = sde.T
    return times


def straight_table(sde: SDE, times: Tensor, end: Marginals | None) -> Table:
    """Return the table for given times and end (`sigma = 0` if None)."""
    nodes, recorder = sde.at(times), Recorder(sde, len(times), "data")
    nothing = torch.zeros(1, dtype=torch.float64)
    rho = torch.cat([nodes.rho, nothing if end is None else end.rho.reshape(1)])
    tau = rho / (1 + rho)
    y, before = recorder.start, None
    for k in range(len(times)):
        output = recorder.evaluate(y, nodes[k])
        slope, step = output.eps - output.data, tau[k + 1] - tau[k]
        u = y / (1 + rho[k]) + step * slope
        if before is not None:
            u = u + step**2 / (2 * (tau[k] - tau[k - 1])) * (slope - before)
        y, before = (1 + rho[k + 1]) * u, slope
    return recorder.table(y, end)
