"""What a solver gives back, and what it asks of a model."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from sde import SDE


class Model(Protocol):
    """All that a solver knows of a model: a trained network and a `GaussianMixture` are the same thing to it.

    `x` has shape `(B, *dims)`, `t` shape `()` or `(B,)`; results have the shape of `x`.
    """

    @property
    def sde(self) -> SDE:
        """The forward process."""

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """`∇ log p_t(x)`."""

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """`E[x_0 | x_t = x]`."""


class Solution(NamedTuple):
    """The result of a solver.

    Attributes:
        x: samples `(B, *dims)`, at `sigma = 0` unless the solver was told to stop at `t_min`.
        nfe: number of batched network calls.
    """

    x: Tensor
    nfe: int
