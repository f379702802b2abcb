r"""The divergence of a field, with its value, in one evaluation.

    div F(z) = tr J,   J = dF/dz        exact: one product with J for each dimension
    tr J = E[v^T J v],   E[v v^T] = I   Hutchinson 1990; for likelihoods Grathwohl et al. 2019, arXiv:1810.01367

    tr J = tr Q^T J Q + E[w^T J w],   w = (I - Q Q^T) v     Hutch++: Meyer et al. 2021, arXiv:2010.09649

Hutch++ finds with a few products the directions `Q` in which `J` is large, takes the trace there exactly, and estimates
what is left: worth its price where few directions matter.

Hutchinson's estimate has the variance `2 |J_s|^2` for normal probes (`J_s` the symmetric part, Frobenius norm) and, for
random signs, the same without the diagonal of `J_s`. Products are taken in reverse mode, `v^T J`: on convolutional
networks that costs about 1.3 forward passes, forward mode about 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# From `(B, d)` to `(B, d)`, each example by itself.
RowwiseField = Callable[[Tensor], Tensor]
# Gives a field's value `(B, d)` at `z` `(B, d)`, and estimates of its divergence `(B, P)`, whose mean is the answer.
Divergence = Callable[[RowwiseField, Tensor], tuple[Tensor, Tensor]]

# Directions of the exact divergence that are followed at once.
_CHUNK = 64


def exact_divergence(field: RowwiseField, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value of `field` at `z` `(B, d)`, and its divergence `(B, 1)`; the field is called once."""
    value, pull_back = value_and_pull_back(field, z)

    def diagonal_entry(direction: Tensor) -> Tensor:
        return pull_back(direction.expand_as(z))[0] @ direction

    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return value, torch.vmap(diagonal_entry, chunk_size=_CHUNK)(basis).sum(0)[:, None]


def hutchinson_divergence(probes: Tensor) -> Divergence:
    """Return an unbiased estimate of the divergence by each probe, `(P, B, d)`, of zero mean and unit covariance."""

    def divergence(field: RowwiseField, z: Tensor) -> tuple[Tensor, Tensor]:
        value, pull_back = value_and_pull_back(field, z)
        return value, torch.stack([_quadratic_form(pull_back, probe) for probe in probes], dim=1)

    return divergence


def hutch_plus_plus_divergence(sketch: Tensor, probes: Tensor) -> Divergence:
    """Return one unbiased estimate of the divergence, by as many products as twice the sketch and the probes.

    Args:
        sketch: random vectors that find the important directions, `(K, B, d)`; `K` at most `d`.
        probes: for the rest, `(P, B, d)`, of zero mean and unit covariance, independent of the sketch.
    """

    def divergence(field: RowwiseField, z: Tensor) -> tuple[Tensor, Tensor]:
        value, pull_back = value_and_pull_back(field, z)
        images = torch.stack([pull_back(vector)[0] for vector in sketch], dim=2)
        basis = torch.linalg.qr(images).Q
        exact = torch.stack([_quadratic_form(pull_back, direction) for direction in basis.unbind(2)]).sum(0)
        rest = [probe - (basis @ (basis.mT @ probe[:, :, None]))[..., 0] for probe in probes]
        estimates = torch.stack([_quadratic_form(pull_back, probe) for probe in rest], dim=1)
        return value, exact[:, None] + estimates.mean(1, keepdim=True)

    return divergence


def _quadratic_form(pull_back: Callable[[Tensor], tuple[Tensor]], v: Tensor) -> Tensor:
    """Return `v^T J v` `(B,)`."""
    return (pull_back(v)[0] * v).sum(1)


def value_and_pull_back(field: RowwiseField, z: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]:
    """Return the value of `field` at `z`, and the map `v -> (v^T J,)`."""
    both: Any = torch.func.vjp(field, z)
    return both
