r"""The reverse SDE through torchsde, in coordinates where it is the same gentle equation for every process.

In `dx = [f x - (1 + eta^2)/2 g^2 score] dt + eta g dw̄` (see `sde.base`) take half the log-SNR as time and normalise
the state,

    lambda = log(alpha / sigma),      u = x / sqrt(alpha^2 + sigma^2),      s = sigma / sqrt(alpha^2 + sigma^2).

    du = [s^2 u + (1 + eta^2) s sigma score(x, t)] dlambda + eta sqrt(2) s dw

Nothing is stiff (`g^2 / sigma^2` blows up as `t -> 0`, this does not), VP, sub-VP and VE differ only in the range of
`lambda`, and the noise is additive, for which torchsde's `srk` (SRA1 of Rössler 2010) has strong order 1.5 and weak
order 2; `euler` and `milstein` coincide. torchsde's time counts steps, uniform in `lambda` from `T` to `t_min`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.common.errors import UserError, choose
from score_sde.common.noise import SampleNoise
from score_sde.common.score import check_score
from score_sde.solvers.base import Draw, Model, Solution, Solver, Steps, arrive, leave_noise
from score_sde.solvers.options import MOST_STEPS, check_at_least, check_between, check_tolerance
from score_sde.solvers.process import last_time
from score_sde.solvers.stochastic.brownian import Brownian, FreshIncrements, NoIncrements, StackedIntervals
from score_sde.solvers.stochastic.normalised_sde import NormalisedReverseSDE, WatchedBrownian, WatchedReverseSDE
from score_sde.solvers.trajectory import Watch
from score_sde.solvers.transitions import GIVE_IT_NOISE, take

# Network calls a step.
METHODS = {"euler": 1, "milstein": 1, "srk": 2}
# Adaptive steps below this part of the way are a failure.
_SMALLEST_STEP = 1e-4


@dataclass(frozen=True)
class ReverseSDE(Solver):
    """Solver `sde`: torchsde's methods on the reverse SDE.

    With fixed steps, an example depends on its own seed alone. torchsde's adaptive steps are taken from the error of
    the whole batch, so there an example has its own Brownian path but not its own steps; `adaptive_sde` has both.

    Args:
        method: `euler` (one call a step), `milstein` (the same here) or `srk` (two calls a step).
        num_steps: number of times, the denoising's among them; with `adaptive`, sets the first step only.
        t_min: last time; the process's own if left out.
        eta: amount of noise; 1 is the reverse SDE, 0 the probability flow ODE.
        adaptive: choose steps from the difference between one step and two halves.
        rtol: relative tolerance of adaptive steps, in the normalised state.
        atol: absolute tolerance of adaptive steps, in the normalised state.
        denoise: end with the denoised mean, at `sigma = 0`; otherwise stop at `t_min`.

    Raises:
        UserError: an option is out of range or unknown; when called: adaptive steps fail.
    """

    method: str = "srk"
    num_steps: int = 100
    t_min: float | None = None
    eta: float = 1.0
    adaptive: bool = False
    rtol: float = 1e-2
    atol: float = 1e-2
    denoise: bool = True

    def __post_init__(self) -> None:
        choose("method of solver 'sde'", self.method, METHODS)
        check_between("num_steps", self.num_steps, 1 if self.denoise and not self.adaptive else 2, MOST_STEPS)
        check_at_least("eta", self.eta, 0)
        check_tolerance("rtol", self.rtol)
        check_tolerance("atol", self.atol)

    @property
    def chooses_steps(self) -> bool:
        return self.adaptive

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        x, calls = leave_noise(model, x_T, watch)
        problem, brownian = self._problem(model, x, draw, watch)
        if self.num_steps > 1:
            x = self._solve(problem, brownian, x, 0, self.num_steps - 1)
        return arrive(model, x, problem.last, calls + problem.nfe, denoise=self.denoise, watch=watch)

    def no_step_density(self, model: Model) -> str:
        """Return why steps have no log-probabilities; nothing if they are Euler's, and there are some."""
        if self.eta == 0 or self.num_steps == 1:
            return f"solver 'sde' adds no noise here: {GIVE_IT_NOISE}"
        if self.adaptive:
            return "solver 'sde' with adaptive steps has none that are Gaussian: their length depends on the noise"
        if self.method == "srk":
            return (
                "solver 'sde' by srk has steps that are no Gaussians: the noise goes through the model inside a step; "
                "take method='euler'"
            )
        return ""

    def walk(self, model: Model, x_T: Tensor, draw: Draw) -> Solution:
        """Return the solution by steps of Euler's method: torchsde's without noise is the mean of one."""
        noise = draw("brownian")
        x, calls = leave_noise(model, x_T)
        problem, _ = self._problem(model, x, lambda stream: noise)
        still = NoIncrements(x.flatten(1))
        for k in range(self.num_steps - 1):
            mean = self._solve(problem, still, x, k, k + 1)
            x = take(noise, mean, problem.noise_of_step(k), problem.times(torch.tensor(k + 1)))
        return arrive(model, x, problem.last, calls + problem.nfe, denoise=self.denoise)

    def split(self, model: Model, x_T: Tensor, draw: Draw) -> Steps:
        """Return the steps between times, and the denoising; arguments as of `solve`.

        Raises:
            UserError: steps are adaptive.
        """
        if self.adaptive:
            raise UserError(
                "solver 'sde' with adaptive steps has none between which states can be changed: take fixed ones"
            )
        problem, brownian = self._problem(model, x_T, draw)
        # From nothing but noise there is a step more.
        last, before = self.num_steps - 1, int(model.sde.ends_in_noise)

        def step(number: int, x: Tensor) -> Tensor:
            k = number - before
            if k < 0:
                return leave_noise(model, x)[0]
            return model.denoise(x, problem.last) if k == last else self._solve(problem, brownian, x, k, k + 1)

        times = problem.times(torch.arange(self.num_steps))
        ends = model.sde.at(torch.cat([times.new_full((before,), model.sde.T), times]))
        if self.denoise:
            ends = ends.and_data()
        return Steps(ends, [1] * before + [METHODS[self.method]] * last + [1] * self.denoise, step)

    def _problem(
        self, model: Model, x: Tensor, draw: Draw, watch: Watch | None = None
    ) -> tuple[NormalisedReverseSDE, Brownian | WatchedBrownian]:
        check_score(model, "solver 'sde'")
        t_min = last_time(model.sde, self.t_min)
        if self.num_steps == 1:
            # The only time is the first.
            t_min = model.sde.t_max
        problem = NormalisedReverseSDE(model, x.shape, t_min, self.num_steps - 1, self.eta)
        # Where there is nothing but noise, an explicit step multiplies the state by 1 - eta^2 times its length.
        needed = math.ceil(self.eta**2 * float(problem.rate) * (self.num_steps - 1) / 2) + 1
        if self.eta > 1 and self.num_steps < needed and not self.adaptive:
            raise UserError(
                f"eta={self.eta:g} needs at least {needed:g} steps, not {self.num_steps}, or it grows without end"
            )
        brownian = self._brownian(x.flatten(1), draw("brownian"))
        if watch is None:
            return problem, brownian
        watched = WatchedReverseSDE(watch, x, t_min, self.num_steps - 1, self.eta, self.adaptive)
        return watched, WatchedBrownian(brownian, watched.starts)

    def _solve(
        self,
        problem: NormalisedReverseSDE,
        brownian: Brownian | WatchedBrownian | NoIncrements,
        x: Tensor,
        first: int,
        last: int,
    ) -> Tensor:
        """Return the state after step `last`, from `x` after step `first`."""
        from torchsde import sdeint

        steps = torch.tensor([first, last], dtype=torch.float64)
        t_min, u = problem.t_min, problem.normalise(x, first)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Hitting minimum allowed step size")
            try:
                path = sdeint(
                    problem,
                    u,
                    steps,
                    bm=brownian,
                    method=self.method,
                    dt=1.0,
                    adaptive=self.adaptive,
                    rtol=self.rtol,
                    atol=self.atol,
                    dt_min=_SMALLEST_STEP * (self.num_steps - 1),
                )
            except (AssertionError, UserWarning) as error:
                raise UserError(
                    f"the adaptive steps of solver 'sde' failed near t = {problem.last_t:.3g}: the error stays above "
                    f"rtol={self.rtol:g}, atol={self.atol:g} or is not finite; loosen these, raise t_min={t_min:g}, "
                    "or use fixed steps"
                ) from error
        return problem.denormalise(path[-1], last)

    def _brownian(self, u: Tensor, noise: SampleNoise) -> Brownian:
        if self.adaptive:
            return StackedIntervals(u, noise, end=self.num_steps - 1, space_time=self.method == "srk")
        return FreshIncrements(u, noise)
