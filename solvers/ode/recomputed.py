r"""A right-hand side whose calls are made again on the way back, so that of each only its state is kept.

The derivative of what a method with given steps returns is that of its arithmetic: of a step `y' = y + h F(s, y)`,
`dL/dy = dL/dy' (1 + h dF/dy)`. The adjoint equation, solved back by the same steps, has another error than the solution
and agrees with its derivative no better than these steps are fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from score_sde.solvers.ode.runge_kutta import Field


def recomputed(field: Field, parameters: Sequence[Tensor]) -> Field:
    """Return a field that can be differentiated by states and by `parameters`, and keeps no more than the states."""

    def call(s: Tensor, y: Tensor) -> Tensor:
        value: Tensor = _Call.apply(field, s, y, *parameters)
        return value

    return call


class _Call(torch.autograd.Function):
    """A call of a field at `s`, a state and parameters."""

    @staticmethod
    def forward(ctx: Any, field: Field, s: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        ctx.field, ctx.s = field, s
        ctx.save_for_backward(y, *parameters)
        return field(s, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            value = ctx.field(ctx.s, y)
            found = torch.autograd.grad(value, (y, *parameters), gradient, allow_unused=True)
        return None, None, *found
