"""Which states the methods of torchdiffeq and scipy step from, as they go.

    fixed steps       torchdiffeq says that a step begins (`callback_step`); the next slope it asks for is the one there
    Runge-Kutta       it says that a step was accepted (`callback_accept_step`); the last slope asked for is that at its
                      end, as all its adaptive methods are "first same as last"
    scipy             its solvers are objects, whose `step` is called until they are done; some keep the slope

What is visited at the end of a step is told when the next is accepted: the end of the last is the solution's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from score_sde.solvers.ode.runge_kutta import Field, Visit

if TYPE_CHECKING:
    from scipy.integrate import OdeSolver


class VisitedField:
    """A right-hand side, called as it is itself, beside which states are visited that steps start from; the first slope
    that is asked for is that of the first.

    Args:
        field: the right-hand side.
        visit: called with each of these states.
    """

    def __init__(self, field: Field, visit: Visit) -> None:
        self._field, self._visit = field, visit
        self._begins = True
        self._asked: tuple[Tensor, Tensor, Tensor | None] | None = None
        self._accepted: tuple[Tensor, Tensor, Tensor | None] | None = None

    def __call__(self, s: Tensor, y: Tensor) -> Tensor:
        slope = self._field(s, y)
        self._asked = s, y, slope
        if self._begins:
            self._begins = False
            self._visit(s, y, slope)
        return slope

    def accept(self, state: tuple[Tensor, Tensor, Tensor | None] | None) -> None:
        """Take this for the end of an accepted step, and visit that of the one before."""
        if self._accepted is not None:
            self._visit(*self._accepted)
        self._accepted = state


class FixedSteps(VisitedField):
    """The right-hand side for torchdiffeq's methods with fixed steps."""

    def callback_step(self, s: Tensor, y: Tensor, length: Tensor) -> None:
        """Expect the slope at the start of a step."""
        self._begins = True


class AcceptedSteps(VisitedField):
    """The right-hand side for torchdiffeq's adaptive Runge-Kutta methods."""

    def callback_accept_step(self, s: Tensor, y: Tensor, length: Tensor) -> None:
        """Accept the place that was last asked about."""
        self.accept(self._asked)


class ScipySteps(VisitedField):
    """The right-hand side for scipy's solvers."""

    def solver(self, name: str, nodes: Tensor, like: Tensor) -> type[OdeSolver]:
        """Return scipy's solver of this name, whose steps from the first of the nodes to the last are visited; states
        have the shape, dtype and device of `like`."""
        from scipy import integrate

        # torchdiffeq has scipy go upwards.
        direction = -1.0 if nodes[-1] < nodes[0] else 1.0
        field = self
        known: Any = getattr(integrate, name)

        class Visited(known):
            def step(self) -> str | None:
                message = super().step()
                if self.status != "failed":
                    # Of Runge-Kutta methods and Radau; others are not asked about where they arrive.
                    slope = getattr(self, "f", None)
                    there = torch.tensor(direction * self.t, dtype=torch.float64)
                    y = torch.tensor(self.y).to(like).reshape(like.shape)
                    f = None if slope is None else torch.tensor(direction * slope).to(like).reshape(like.shape)
                    field.accept((there, y, f))
                return message

        return Visited
