r"""Weights of exponential multistep methods.

A multistep method replaces the model's output `F(lambda)` by the polynomial through its past values and integrates that
exactly against the exponential that comes from the linear part:

    w_j = ∫_a^b exp(rate (lambda - b)) l_j(v(lambda)) dlambda,        l_j(v(lambda_i)) = 1 if i = j else 0

with `l_j` the Lagrange polynomials in a variable `v`. The integrand is smooth, so that Gauss–Legendre quadrature
gives the weights to float64's resolution, for any `v`, without the cancellation of the closed forms at small steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_NUM_POINTS = 32


def adams_weights(
    nodes: Tensor,
    start: Tensor,
    end: Tensor,
    rate: float,
    variable: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return weights `w_j` for values known at `nodes`, for a step from `start` to `end`; differentiable, float64.

    Args:
        nodes: `lambda` where the model's output is known, shape `(order,)`.
        start: `lambda` at the start of the step, shape `()`.
        end: `lambda` at its end, shape `()`.
        rate: exponent of the weight: `1 + eta^2` for data prediction, -1 for noise prediction.
        variable: in what the outputs are interpolated, a function of `lambda`; `lambda` itself if left out.

    Returns:
        Shape `(order,)`.
    """
    points, point_weights = gauss_legendre()
    lam = start + (end - start) * points
    density = (end - start) * point_weights * torch.exp(rate * (lam - end))
    if variable is not None:
        nodes, lam = variable(nodes), variable(lam)
    basis = [lagrange(nodes, j, lam) for j in range(len(nodes))]
    return torch.stack(basis) @ density


def lagrange(nodes: Tensor, j: int, at: Tensor) -> Tensor:
    """Return the polynomial that is 1 at `nodes[j]` and 0 at the other nodes, at the points `at`; shape of `at`."""
    value = torch.ones_like(at)
    for i in range(len(nodes)):
        if i != j:
            value = value * (at - nodes[i]) / (nodes[j] - nodes[i])
    return value


@lru_cache(maxsize=1)
def gauss_legendre() -> tuple[Tensor, Tensor]:
    """Return points and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(_NUM_POINTS)
    return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)
