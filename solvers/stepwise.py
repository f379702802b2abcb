"""Solvers taken apart into steps, each of which depends on nothing but the state it starts from.

Between such steps a state may be changed, or a step be done again: what `control.state_control` does. Multistep
methods, which remember earlier outputs, and adaptive ones, whose steps are their own, cannot be taken apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sde import SDE
from solvers.solution import Solution


class Ends(NamedTuple):
    """What is known of the ends of steps: `alpha` and `sigma` there, `(M + 1,)`, float64."""

    alpha: Tensor
    sigma: Tensor

    @staticmethod
    def at_times(sde: SDE, times: Tensor, denoised: bool) -> Ends:
        """The ends at these times, and one more, `alpha = 1` and `sigma = 0`, if the last step denoises."""
        alpha, sigma = sde.alpha(times.double()), sde.sigma(times.double())
        if denoised:
            alpha, sigma = torch.cat([alpha, alpha.new_ones(1)]), torch.cat([sigma, sigma.new_zeros(1)])
        return Ends(alpha, sigma)


class Stepwise(NamedTuple):
    """A solver's steps from the state at `T`.

    Attributes:
        ends: of the steps, one more than there are of these.
        calls: network calls of each.
        step: called with a step's number and the state `(B, *dims)` it starts from; gives that at its end.
    """

    ends: Ends
    calls: list[int]
    step: Callable[[int, Tensor], Tensor]

    def run(self, x: Tensor) -> Solution:
        """All steps, one after the other, from `x` at `T`."""
        for k in range(len(self.calls)):
            x = self.step(k, x)
        return Solution(x, sum(self.calls))
