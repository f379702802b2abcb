"""Derivatives of a network, of all kinds, against difference quotients and against each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def check_derivatives(network: Callable[[Tensor, Tensor], Tensor], x: Tensor, labels: Tensor) -> None:
    """See that forward, backward, second and batched derivatives of a float64 network at `x` agree."""
    v, w = torch.randn(2, *x.shape, dtype=torch.float64)

    def function(y: Tensor) -> Tensor:
        return network(y, labels)

    forward = torch.func.jvp(function, (x,), (v,))[1]
    step = 1e-5
    differences = (function(x + step * v) - function(x - step * v)) / (2 * step)
    assert (forward - differences).norm() < 1e-7 * forward.norm()
    y = x.clone().requires_grad_()
    (backward,) = torch.autograd.grad(function(y), y, w, create_graph=True)
    assert (backward * v).sum().item() == pytest.approx((forward * w).sum().item(), rel=1e-10)
    (twice,) = torch.autograd.grad((backward * v).sum(), y)

    def projection(z: Tensor) -> Tensor:
        return (function(z) * w).sum()

    over = torch.func.jvp(torch.func.grad(projection), (x,), (v,))[1]
    torch.testing.assert_close(twice, over, rtol=1e-9, atol=1e-9 * over.abs().max().item())
    many = torch.func.vmap(lambda u: torch.func.jvp(function, (x,), (u,))[1])(torch.stack([v, w]))
    torch.testing.assert_close(many[0], forward)
