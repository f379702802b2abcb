r"""State controls: what is observed of an image is put into the state between steps of a solver.

    projection    x <- x + A^+ (alpha y + sigma A z - A x)
                  after each step: the part of the state that is observed becomes what it would be at this time,
                  with fresh noise z; the rest stays        Song et al. 2021, arXiv:2011.13456, appendix I.2
    RePaint       the same, and stretches of steps are done again, after noise has been added back, so that the rest may
                  come to fit                               Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1

At `sigma = 0`, where `alpha = 1`, the answer is given what was observed: masked pixels to the last bit, the rest as
far as `A A^T` can be inverted. Noise of the observation is not taken into account.

The score of the rest is that of `p_t(x)`, at one noisy picture of what was observed, and not that of `p_t(x | y)`:
answers are biased, on a Gaussian by a known amount. With short steps the mean of the rest there follows

    dm/dt = f m - n (1 + eta^2)/2 g^2 s(m, alpha y)

with `s` the score of the rest, and `n` the number of repeats, 1 for projection; the more repeats, the nearer it comes
to where `s` vanishes, which is right. `docs/control.md` has the bias on a mixture.

A state control needs a solver that can be taken apart into steps (`solvers.base`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.noise import SampleNoise
from score_sde.common.score import check_score
from score_sde.control.operators import LinearOperator
from score_sde.sde import SDE
from score_sde.solvers.base import Draw, Model, Solution, Solver
from score_sde.solvers.options import MOST_STEPS, check_between
from score_sde.solvers.standard_normal import StandardNormal
from score_sde.solvers.trajectory import Watch


class StateControl(Protocol):
    """A state control says what is done to the state between steps."""

    def change(self, x: Tensor, alpha: Tensor, sigma: Tensor, noise: SampleNoise) -> Tensor:
        """Return the state `x` `(B, *dims)` at the end of a step, changed; `alpha` and `sigma` `()` are those there."""

    def path(self, num_steps: int) -> Iterator[int]:
        """Yield the ends of steps to go to, from 0 to `num_steps`; each is one more than the last, or less: back."""


class Projection:
    """The observed part of the state is replaced after each step.

    Args:
        operator: the operator `A`.
        y: what was observed, `(B, *observed)`.
    """

    @checked
    def __init__(self, operator: LinearOperator, y: Tensor) -> None:
        self.operator = operator
        self.y = y

    def change(self, x: Tensor, alpha: Tensor, sigma: Tensor, noise: SampleNoise) -> Tensor:
        """Return `x + A^+ (alpha y + sigma A z - A x)`; shape of `x`."""
        y = self.y.to(x)
        if sigma == 0:
            return self.operator.project(x, y)
        return self.operator.project(x, alpha.to(x) * y + sigma.to(x) * self.operator(noise.normal(x)))

    def path(self, num_steps: int) -> Iterator[int]:
        """Yield the ends of all steps, in order."""
        yield from range(1, num_steps + 1)


class RePaint(Projection):
    """Projection does each stretch of steps several times, with noise added back in between.

    Args:
        operator: the operator `A`.
        y: what was observed, `(B, *observed)`.
        jump: steps that are gone back at once.
        repeats: how often each stretch of so many steps is done; 1 is `Projection`.

    Raises:
        UserError: `jump` or `repeats` is less than 1.
    """

    @checked
    def __init__(self, operator: LinearOperator, y: Tensor, jump: int = 1, repeats: int = 10) -> None:
        check_between("jump", jump, 1, MOST_STEPS)
        check_between("repeats", repeats, 1, MOST_STEPS)
        super().__init__(operator, y)
        self.jump = jump
        self.repeats = repeats

    def path(self, num_steps: int) -> Iterator[int]:
        """Yield the ends of each stretch of `jump` steps `repeats` times, going back in between."""
        for first in range(0, num_steps, self.jump):
            last = min(first + self.jump, num_steps)
            for repeat in range(self.repeats):
                if repeat:
                    yield first
                yield from range(first + 1, last + 1)


class Controlled(Solver):
    """A solver with a state control is a solver again: `controlled(model, x_T, seeds=…)`.

    Args:
        solver: a solver whose steps remember nothing.
        control: what is done between the steps.

    Raises:
        UserError: when called: the solver's steps cannot be taken apart.
    """

    @checked
    def __init__(self, solver: Solver, control: StateControl) -> None:
        self.solver = solver
        self.control = control

    @property
    def chooses_steps(self) -> bool:
        return self.solver.chooses_steps

    def calls(self, sde: SDE) -> int | None:
        """Count the calls of all steps that the control's path goes through, those that are done again among them."""
        if self.chooses_steps:
            return None
        calls = self.solver.steps(StandardNormal(sde), torch.zeros(1, 1, dtype=torch.float64), seeds=[0]).calls
        here, total = 0, 0
        for end in self.control.path(len(calls)):
            total, here = total + (calls[here] if end > here else 0), end
        return total

    def no_step_density(self, model: Model) -> str:
        """Return why steps have no log-probabilities."""
        return "a solver with a state control has no density: what is observed is put into states after their steps"

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        """Return the solution; arguments are those of `Solver.solve`, and the control has noise of its own."""
        check_score(model, "a state control")
        noise = draw("control")
        steps = self.solver.steps(model, x_T, seeds=noise.seeds)
        alpha, sigma = steps.ends.alpha, steps.ends.sigma
        x, here, nfe = self.control.change(x_T, alpha[0], sigma[0], noise), 0, 0
        for end in self.control.path(len(steps.calls)):
            if watch is not None:
                watch.reached(steps.ends.t[here], x)
            if end > here:
                x, nfe = steps.step(here, x), nfe + steps.calls[here]
                x = self.control.change(x, alpha[end], sigma[end], noise)
            else:
                x = forward(x, alpha[here], sigma[here], alpha[end], sigma[end], noise)
            here = end
        if watch is not None:
            watch.reached(steps.ends.t[here], x, x if sigma[here] == 0 else None)
        return Solution(x, nfe)


def forward(
    x: Tensor, alpha_s: Tensor, sigma_s: Tensor, alpha_t: Tensor, sigma_t: Tensor, noise: SampleNoise
) -> Tensor:
    """Draw from `x_t | x_s`, `s < t`: `N(alpha_ts x, sigma_t^2 - alpha_ts^2 sigma_s^2)`; shape of `x`."""
    scale = alpha_t / alpha_s
    std = (sigma_t**2 - (scale * sigma_s) ** 2).clamp(min=0).sqrt()
    return SDE.expand(scale, x) * x + SDE.expand(std, x) * noise.normal(x)
