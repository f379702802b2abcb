r"""Sampling from a flow map: a few jumps along the flow, one network call each.

    x_{k+1} = X_{t_k -> t_{k+1}}(x_k),        T = t_0 > t_1 > … > t_N = 0

With exact jumps that is the probability flow's own end, whatever the times; of a network, each jump mends what the one
before it left. With `renoise` every jump goes to the data, which are given new noise for the next time: multistep
consistency sampling (Song et al. 2023, arXiv:2303.01469, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.score import check_score
from score_sde.solvers.base import Draw, Model, Solution, Solver, Steps
from score_sde.solvers.grids import Grid, number_of_times, time_grid
from score_sde.solvers.options import MOST_STEPS, check_between
from score_sde.solvers.trajectory import Watch
from score_sde.solvers.transitions import GIVE_IT_NOISE, take

_NUM_STEPS = 2


@dataclass(frozen=True)
class FewStep(Solver):
    """Solver `consistency`: a flow map's jumps are taken, from noise to data.

    Args:
        num_steps: number of jumps; that of the times listed, or else 2, if left out.
        grid: a name, of which the last time, `t_min`, gives way to 0; or the times that are jumped from.
        t_min: where a named grid would end; the process's own if left out.
        renoise: whether each jump goes to the data, with new noise for the next one.

    Raises:
        UserError: an option is out of range; when called: the model gives no jumps.
    """

    num_steps: int | None = None
    grid: Grid = "log_angle"
    t_min: float | None = None
    renoise: bool = False

    def __post_init__(self) -> None:
        check_between("num_steps", self._count, 1, MOST_STEPS)

    @property
    def _count(self) -> int:
        if self.num_steps is None and isinstance(self.grid, str):
            return _NUM_STEPS
        return number_of_times(self.num_steps, self.grid)

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        return self.split(model, x_T, draw).run(x_T, watch)

    def no_step_density(self, model: Model) -> str:
        """Return why steps have no log-probabilities; nothing if each but the last ends with new noise."""
        if self.renoise and self._count > 1:
            return ""
        return f"solver 'consistency' adds no noise here (renoise, and more than one step, would): {GIVE_IT_NOISE}"

    def split(self, model: Model, x_T: Tensor, draw: Draw) -> Steps:
        jump = getattr(model, "jump", None)
        if jump is None:
            raise UserError(
                "solver 'consistency' jumps, and this model gives no jumps, but a score: train a flow map "
                "(configs/vp/digits_fewstep.py), or take another solver"
            )
        sde = model.sde
        named = isinstance(self.grid, str)
        times = time_grid(sde, self.grid, self._count + named, self.t_min)[: self._count]
        ends = sde.at(times).and_data()
        noise = draw("solver") if self.renoise and self._count > 1 else None
        if noise is not None:
            check_score(model, "solver 'consistency' with noise between its jumps")

        def step(k: int, x: Tensor) -> Tensor:
            if noise is None:
                return jump(x, ends.t[k], ends.t[k + 1])
            x = jump(x, ends.t[k], torch.zeros_like(ends.t[k]))
            if k + 1 == self._count:
                return x
            alpha, sigma = ends[k + 1].to(x)
            return take(noise, alpha * x, sigma, ends.t[k + 1])

        return Steps(ends, [1] * self._count, step)
