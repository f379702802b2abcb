r"""GITS, a time grid chosen for a model (Chen et al. 2024, arXiv:2405.11326).

Trajectories of one model bend at much the same times. From a few of them, followed accurately over a fine grid
`t_0 > … > t_M`, one sees what it costs to go from `t_i` to `t_j` in one step of Euler's in `y = x / alpha`,
`rho = sigma / alpha`:

    c_ij = mean || y_i + (rho_j - rho_i) eps_i - y_j ||

and of all grids of `N` of these times the best is the shortest path through them, by dynamic programming:

    minimise    sum_k  g^k c_{i_k i_{k+1}},      i_0 = 0,  i_{N-1} = M

with later steps weighted by `g > 1`, 1.15 in the paper, since their errors are not forgotten.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.sde import SDE
from score_sde.solvers.base import Model, noise_of
from score_sde.solvers.fast.named import FAST_SOLVERS
from score_sde.solvers.grids import time_grid
from score_sde.solvers.options import MOST_STEPS, check_at_least, check_between, check_positive
from score_sde.solvers.process import last_time

_FINE_GRID = "karras"
_MOST_FINE_STEPS = 500


@checked
def gits_times(
    model: Model,
    num_steps: int,
    shape: Sequence[int],
    *,
    num_trajectories: int = 64,
    fine_steps: int = 60,
    growth: float = 1.15,
    t_min: float | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Return the times `T = t_0 > … > t_{num_steps - 1} = t_min` that suit a model, to be given to a solver as `grid`.

    Args:
        model: the model.
        num_steps: number of times.
        shape: shape of one example, `dims`.
        num_trajectories: trajectories from which costs are told.
        fine_steps: M, steps of the fine grid; the model is asked `2 M + 1` times for each trajectory.
        growth: g, by which a step is weighted more than the one before.
        t_min: last time; the process's own if left out.
        seed: of the noise.
        dtype: of the states; torch's default if left out.
        device: of the states.

    Raises:
        UserError: an option is out of range, or the process is none that can be solved.
    """
    check_between("fine_steps", fine_steps, 2, _MOST_FINE_STEPS)
    check_between("num_steps", num_steps, 2, fine_steps + 1)
    check_between("num_trajectories", num_trajectories, 1, MOST_STEPS)
    check_positive("growth", growth)
    check_between("growth", growth, 0, 2)
    check_at_least("seed", seed, 0)
    if not shape or min(shape) < 1:
        raise UserError(f"the shape of an example has numbers from 1 on, not {tuple(shape)}")
    times = time_grid(model.sde, _FINE_GRID, fine_steps + 1, last_time(model.sde, t_min))
    seeds = range(seed, seed + num_trajectories)
    x_T = model.sde.prior_sample((num_trajectories, *shape), seeds=seeds, dtype=dtype, device=device)
    path = cheapest_path(euler_costs(model, times, x_T), num_steps, growth)
    return times[path].tolist()


@torch.no_grad()
def euler_costs(model: Model, times: Tensor, x_T: Tensor) -> Tensor:
    """Return the costs `c_ij` of steps between fine times, `(M + 1, M + 1)`, float64; infinite but for `i < j`."""
    teacher = FAST_SOLVERS["unipc"](grid=times, t_min=float(times[-1]), denoise=False)
    states = teacher(model, x_T, trajectory=True).trajectory
    here = model.sde.at(times)
    y = torch.stack([state.x / alpha.to(x_T) for state, alpha in zip(states, here.alpha, strict=True)])
    rho = here.rho.to(x_T)
    costs = torch.full((len(times), len(times)), math.inf, dtype=torch.float64)
    for i in range(len(times) - 1):
        eps = noise_of(model, states[i].x, model.sde.at(times[i]))
        length = (rho[i + 1 :] - rho[i]).reshape(-1, *(1,) * x_T.ndim)
        missed = (y[i] + length * eps - y[i + 1 :]).flatten(2).norm(dim=2)
        costs[i, i + 1 :] = missed.mean(1).double().cpu()
    return costs


def cheapest_path(costs: Tensor, num_nodes: int, growth: float) -> list[int]:
    """Return the path of so many nodes from the first to the last whose steps cost least, each `growth` times more.

    Args:
        costs: those of steps from node `i` to node `j`, `(M + 1, M + 1)`, infinite where there is no step.
        num_nodes: nodes of the path, 2 or more.
        growth: the weight of a step beside that of the one before.
    """
    # What it costs to go on from each node to the last, in one step; then in two, …
    ahead, choices = costs[:, -1], []
    for _ in range(num_nodes - 2):
        ahead, choice = (costs + growth * ahead).min(1)
        choices.append(choice)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return [*path, len(costs) - 1]


def save_times(path: str | Path, times: Sequence[float], sde: SDE) -> None:
    """Write times, whole or not at all, and half the log-SNR there, by which another process is noticed."""
    content = {"times": list(times), "log_snr": sde.log_snr(torch.tensor(times, dtype=torch.float64)).tolist()}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def load_times(path: str | Path, sde: SDE, t_min: float | None = None) -> list[float] | None:
    """Return the times that `save_times` wrote; None where there are none for this process and last time."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        times, log_snr = (torch.tensor(content[name], dtype=torch.float64) for name in ("times", "log_snr"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no times of a grid: delete it, and it is made again") from error
    if not (times.ndim == 1 and times.shape == log_snr.shape and len(times) > 1):
        return None
    same_ends = times[[0, -1]].tolist() == [sde.T, last_time(sde, t_min)]
    same_process = torch.allclose(sde.log_snr(times), log_snr, rtol=0, atol=1e-6)
    return times.tolist() if same_ends and same_process else None
