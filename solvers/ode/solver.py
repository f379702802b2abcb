r"""Sampling and encoding by the probability flow ODE (Song et al. 2021, arXiv:2011.13456, section 4.3).

The equation is solved in the coordinates of `solvers.ode.flow`, from `T` down to `t_min` (sampling) or up
(encoding: each example's latent, from which sampling returns to it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from score_sde.common.arguments import checked, checked_class
from score_sde.common.errors import UserError
from score_sde.solvers.base import Draw, Model, Solution, Solver, States, Steps, arrive
from score_sde.solvers.grids import Grid, listed_times, time_grid
from score_sde.solvers.ode.flow import ProbabilityFlow
from score_sde.solvers.ode.integrator import ADAMS, ADAMS_ON_NODES, Integrator, default_tolerance
from score_sde.solvers.ode.runge_kutta import Visit
from score_sde.solvers.options import MOST_STEPS, check_between
from score_sde.solvers.process import last_time
from score_sde.solvers.trajectory import Watch
from score_sde.solvers.transitions import GIVE_IT_NOISE

_ROUND_TRIP_TOLERANCE = 1e-6
# Calls a step of torchdiffeq's Runge-Kutta methods with fixed ones.
_STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


@checked_class
@dataclass(frozen=True)
class ODE(Solver):
    """Solver `ode`: the probability flow ODE by any method of torchdiffeq; there is no noise.

    Adaptive Runge-Kutta methods take steps of their own for each example; see `Integrator`.

    Args:
        method: a method of torchdiffeq: `dopri5`, `dopri8`, `bosh3`, `adaptive_heun`, `fehlberg2`, `scipy_solver`
            (adaptive); `euler`, `midpoint`, `heun2`, `heun3`, `rk4`, `explicit_adams`, `implicit_adams` (fixed steps);
            or `adams`, ours, with fixed steps of one call each.
        rtol: relative tolerance of adaptive steps, in the normalised state; 1e-7 for float64, 1e-3 for float32.
        atol: absolute tolerance of adaptive steps; likewise.
        num_steps: methods with fixed steps: their number; that of the grid, if it lists times. The denoising step
            is one of them.
        grid: methods with fixed steps: their ends, `uniform_log_snr` (`adams`: `log_angle`) if left out; see
            `time_grid`. torchdiffeq's Adams methods need equal steps and have their own.
        options: further options of the method, with torchdiffeq's names.
        t_min: last time; the process's own if left out.
        denoise: end with the denoised mean, at `sigma = 0`; otherwise stop at `t_min`.
        per_example: False leaves adaptive Runge-Kutta methods to torchdiffeq, with one step size for the whole batch.

    Raises:
        UserError: an option is unknown or out of range; when called: the solution cannot be followed.
    """

    method: str = "dopri5"
    rtol: float | None = None
    atol: float | None = None
    num_steps: int | None = None
    grid: Grid | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    t_min: float | None = None
    denoise: bool = True
    per_example: bool = True

    def __post_init__(self) -> None:
        check_fixed_steps(self.integrator, self.num_steps, self.grid, self.denoise)

    @property
    def integrator(self) -> Integrator:
        """The integrator is what solves the equation."""
        return Integrator(self.method, self.rtol, self.atol, self.options, self.per_example)

    @property
    def chooses_steps(self) -> bool:
        return not self.integrator.takes_fixed_steps

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        flow = ProbabilityFlow(model, x_T.shape, last_time(model.sde, self.t_min), self.integrator.resolution)
        nodes, times = integration_nodes(flow, self.integrator, self._num_steps, self.grid)
        if len(nodes) == 1:
            return arrive(model, x_T, times[0], 0, denoise=self.denoise, watch=watch)
        visit = None if watch is None else self._visit(watch, flow, nodes, times, x_T)
        z = self.integrator(flow, flow, flow.normalise(x_T, times[0]), nodes, visit=visit)
        return arrive(model, flow.denormalise(z, times[-1]), times[-1], flow.nfe, denoise=self.denoise, watch=watch)

    @property
    def _num_steps(self) -> int | None:
        """The steps of the flow, where their number is given, are all but the denoising."""
        return None if self.num_steps is None else self.num_steps - self.denoise

    def _visit(self, watch: Watch, flow: ProbabilityFlow, nodes: Tensor, times: Tensor, x_T: Tensor) -> Visit:
        """Return what tells the watch of the states of the flow; methods with fixed steps have one a node."""
        fixed = self.integrator.takes_fixed_steps
        visited = 0

        def visit(s: Tensor, z: Tensor, slope: Tensor | None) -> None:
            nonlocal visited
            if fixed or not visited:
                t = times[visited].expand(s.shape)
            else:
                # An example that waits is at one of the ends.
                t = torch.where(s == nodes[0], times[0], torch.where(s == nodes[-1], times[-1], flow.time(s)))
            x = flow.denormalise(z, t) if visited else x_T
            watch.reached(t, x, None if slope is None else flow.denoised(s, z, slope))
            visited += 1

        return visit

    def no_step_density(self, model: Model) -> str:
        """Return why steps have no log-probabilities."""
        return f"solver 'ode' adds no noise: {GIVE_IT_NOISE}"

    def split(self, model: Model, x_T: Tensor, draw: Draw) -> Steps:
        """Return the steps of a Runge-Kutta method with fixed ones, and the denoising; arguments as of `solve`.

        Raises:
            UserError: the method chooses its steps, or remembers earlier slopes.
        """
        integrator = self.integrator
        if not integrator.takes_fixed_steps or integrator.method in (*ADAMS, ADAMS_ON_NODES):
            raise UserError(
                f"ODE method {self.method!r} has no steps between which states can be changed: take one such as rk4"
            )
        flow = ProbabilityFlow(model, x_T.shape, last_time(model.sde, self.t_min), integrator.resolution)
        nodes, given = integration_nodes(flow, integrator, self._num_steps, self.grid)
        times = flow.time(nodes)
        times[0], times[-1] = given[0], given[-1]
        last = len(nodes) - 1

        def step(k: int, x: Tensor) -> Tensor:
            if k == last:
                return model.denoise(x, times[-1])
            z = integrator(flow, flow, flow.normalise(x, times[k]), nodes[k : k + 2])
            return flow.denormalise(z, times[k + 1])

        calls = [_STAGES[self.method]] * last + [1] * self.denoise
        marginals = model.sde.at(times)
        return Steps(marginals.and_data() if self.denoise else marginals, calls, step)

    @torch.no_grad()
    @checked
    def encode(self, model: Model, x: States) -> Solution:
        """Return the latents at `T`, shape of `x`, of examples `x` `(B, *dims)` at `t_min`."""
        check_fixed_steps(self.integrator, self.num_steps, self.grid)
        flow = ProbabilityFlow(model, x.shape, last_time(model.sde, self.t_min), self.integrator.resolution)
        nodes, times = integration_nodes(flow, self.integrator, self.num_steps, self.grid)
        z = self.integrator(flow, flow, flow.normalise(x, times[-1]), nodes.flip(0))
        return Solution(flow.denormalise(z, times[0]), flow.nfe)


@checked
def encode(model: Model, x: States, **options: Any) -> Solution:
    """Return the latents of data, by the probability flow ODE from `t_min` to `T`; `decode` goes back from there.

    Where a trajectory passes between two outcomes, small errors grow: tolerances are tighter than for sampling
    (`docs/control.md` has the errors of 360 digits).

    Args:
        model: gives the score.
        x: examples at `t_min`, shape `(B, *dims)`.
        options: as of `ODE`; `rtol` and `atol` are 1e-6, or 1e-7 for float64, unless given; `denoise` has no effect.

    Returns:
        `Solution(x, nfe)` with the latents, shape of `x`.

    Raises:
        UserError: as `ODE`.
    """
    return _there_and_back(x, options).encode(model, x)


@checked
def decode(model: Model, latents: States, **options: Any) -> Solution:
    """Return the data at `t_min` of latents at `T`, shape `(B, *dims)` both: the inverse of `encode`, with its
    arguments."""
    return _there_and_back(latents, options)(model, latents)


def _there_and_back(x: Tensor, options: dict[str, Any]) -> ODE:
    method = Integrator(options.get("method", "dopri5"))
    tolerance = min(default_tolerance(x.dtype), _ROUND_TRIP_TOLERANCE)
    tolerances = {} if method.takes_fixed_steps else {"rtol": tolerance, "atol": tolerance}
    return ODE(**{**tolerances, **options, "denoise": False})


def check_fixed_steps(integrator: Integrator, num_steps: int | None, grid: Grid | None, denoise: bool = False) -> None:
    """Raise `UserError` unless the steps of a method with fixed ones, and of no other, are given: by number, or by
    the times where they end. Without a denoising, which is one of them, the flow has at least one."""
    method, listed = f"ODE method {integrator.method!r}", listed_times(grid)
    if not integrator.takes_fixed_steps and (num_steps is not None or grid is not None):
        raise UserError(f"{method} chooses its steps: leave num_steps and grid out, or take a method such as rk4")
    if integrator.method in ADAMS and grid is not None:
        raise UserError(f"{method} has a grid of its own: leave grid out")
    if integrator.takes_fixed_steps and num_steps is None and listed is None:
        raise UserError(f"{method} takes fixed steps: give num_steps, or the times where they end as the grid")
    if num_steps is not None:
        check_between("num_steps", num_steps, 1, MOST_STEPS)
    if listed is not None:
        check_between("the number of times in the grid", listed, 1 if denoise else 2, MOST_STEPS)
    if listed is not None and num_steps not in (None, listed - 1 + denoise):
        steps = listed - 1 + denoise
        raise UserError(f"the grid has {listed} times, and so {steps} steps, but num_steps is {num_steps}")


def integration_nodes(
    flow: ProbabilityFlow, integrator: Integrator, num_steps: int | None, grid: Grid | None
) -> tuple[Tensor, Tensor]:
    """Return positions from `T` to the last time, `(num_steps + 1,)` or `(2,)`, and the times there; float64.

    The number of steps may be left out where the grid lists the times.
    """
    listed = listed_times(grid)
    if num_steps is None and listed is not None:
        num_steps = listed - 1
    if num_steps == 0:
        end = torch.tensor([flow.sde.T], dtype=torch.float64)
        return flow.position(end), end
    times = torch.tensor([flow.sde.T, flow.t_min], dtype=torch.float64)
    if integrator.takes_fixed_steps and num_steps is not None and integrator.method not in ADAMS:
        times = time_grid(flow.sde, integrator.default_grid if grid is None else grid, num_steps + 1, flow.t_min)
    nodes = flow.position(times)
    if integrator.method in ADAMS and num_steps is not None:
        nodes = torch.linspace(float(nodes[0]), float(nodes[-1]), num_steps + 1, dtype=torch.float64)
        times = torch.cat([times[:1], flow.time(nodes[1:-1]), times[-1:]])
    return nodes, times
