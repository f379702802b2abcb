r"""Coordinates in which data that look like a Gaussian stand still.

Let `N(m, V diag(c^2) V^T)` have the data's mean and covariance (`common.gaussian`). Under the probability flow of that
Gaussian, with `z = x / r` and `theta` as in `solvers.ode.flow`, each number of

    w = (V^T z - cos(theta) V^T m) / q,        q_i = sqrt(cos(theta)^2 c_i^2 + sin(theta)^2)

is constant. In these coordinates a solver has to follow only what the model is beside its Gaussian:

    dw/ds = (V^T dz/ds - d(cos(theta))/ds V^T m) / q - w dlog(q)/ds

    div dw/ds = div dz/ds - sum_i a_i dlog(q_i)/ds,        a_i = 1

and what was taken off the divergence is known, `sum_i a_i log q_i`, and added at the end. Of Hutchinson's estimate with
the probe `v` it is `a_i = (V^T v)_i^2`: to the tolerance, the estimate remains what it is in other coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.gaussian import Gaussian
from score_sde.solvers.ode.flow import ProbabilityFlow


class GaussianCoordinates:
    """The states `w` `(B, d)` stand for those of a flow, and their slopes and divergences for its.

    Args:
        flow: the flow in `z`.
        gaussian: the Gaussian that the data look like.
        z: states of the flow, `(B, d)`, for their dtype and device.
        probes: the vectors of Hutchinson's estimate, `(P, B, d)`; None where divergences are exact, or all but.

    Attributes:
        which: which of the Gaussian's scales each number of a state has, `(d,)`.
    """

    def __init__(self, flow: ProbabilityFlow, gaussian: Gaussian, z: Tensor, probes: Tensor | None) -> None:
        self._flow, self._gaussian = flow, gaussian.to(z)
        # Examples that the model has as vectors may be asked about in another shape.
        self._dims = gaussian.mean.shape if gaussian.mean.ndim else flow.shape[1:]
        self.which = self._gaussian.which.expand(self._dims).reshape(-1)
        self._variances = self._gaussian.scales[self.which].square()
        self._mean = self._rotate(self._gaussian.mean.expand(self._dims).reshape(1, -1))
        self._shares = torch.ones_like(z)[None] if probes is None else self._rotate_all(probes).square()

    @staticmethod
    def fit(gaussian: Gaussian, dimension: int) -> bool:
        """Return whether this is a Gaussian of so many numbers; a network may be asked about other sizes."""
        return not gaussian.mean.ndim or gaussian.mean.numel() == dimension

    def enter(self, z: Tensor, s: Tensor) -> Tensor:
        """Return `w` from `z` at `s` `()` or `(B,)`."""
        cos, _, q, _ = self._scales(s, z)
        return (self._rotate(z) - cos * self._mean) / q

    def leave(self, w: Tensor, s: Tensor) -> Tensor:
        """Return `z` from `w` at `s` `()` or `(B,)`."""
        cos, _, q, _ = self._scales(s, w)
        return self._rotate_back(w * q + cos * self._mean)

    def residual(self, s: Tensor, w: Tensor, slope: Tensor, divergences: Tensor) -> tuple[Tensor, Tensor]:
        """Return `dw/ds`, and its divergences `(B, P)`, from those of the flow at the same place."""
        _, falls, q, grows = self._scales(s, w)
        growth = torch.einsum("pbd,bd->bp", self._shares, grows.expand_as(w))
        return (self._rotate(slope) + falls * self._mean) / q - w * grows, divergences - growth

    def log_volume(self, s: Tensor) -> Tensor:
        """Return `sum_i a_i log q_i` at `s` `()`, `(B, P)`."""
        _, _, q, _ = self._scales(s, self._shares[0])
        return (self._shares * torch.log(q)).sum(2).mT

    def _scales(self, s: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `cos(theta)`, `-d cos(theta)/ds`, `q` and `d log(q)/ds`, that broadcast to `(B, d)`."""
        theta = self._flow.angle(s)
        rate = theta + self._flow.resolution
        cos, sin, rate = (values.to(like).reshape(-1, 1) for values in (torch.cos(theta), torch.sin(theta), rate))
        square = cos**2 * self._variances + sin**2
        return cos, rate * sin, square.sqrt(), rate * sin * cos * (1 - self._variances) / square

    def _rotate(self, z: Tensor) -> Tensor:
        return self._gaussian.rotate(z.reshape(-1, *self._dims)).reshape(z.shape)

    def _rotate_back(self, z: Tensor) -> Tensor:
        return self._gaussian.rotate_back(z.reshape(-1, *self._dims)).reshape(z.shape)

    def _rotate_all(self, probes: Tensor) -> Tensor:
        return torch.stack([self._rotate(probe) for probe in probes])
