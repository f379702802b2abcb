"""A model that knows classes, with the class of each example given: a model like any other, of `p(x | class)`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from score_sde.sde import SDE


class ClassModel(Protocol):
    """`ScoreModel` and `LevelModel` are such."""

    @property
    def sde(self) -> SDE:
        """The forward process."""

    def score(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        """`∇ log p_t(x | class)`."""

    def denoise(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        """`E[x_0 | x_t = x, class]`."""


class ClassConditional:
    """`model` with these classes: solvers and likelihoods take it for a batch of as many examples, in this order.

    Args:
        model: whose network takes classes.
        classes: whole numbers, shape `(B,)`.
    """

    def __init__(self, model: ClassModel, classes: Tensor) -> None:
        self.model = model
        self.classes = classes

    @property
    def sde(self) -> SDE:
        """The forward process."""
        return self.model.sde

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """`∇ log p_t(x | class)`; shape of `x`."""
        return self.model.score(x, t, self.classes)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """`E[x_0 | x_t = x, class]`; shape of `x`."""
        return self.model.denoise(x, t, self.classes)
