"""A model whose calls are counted by somebody else, as `progress.Progress` does; results are the model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from score_sde.sde import SDE


class Watched:
    """`model`, a model again: of each call of it, `tell` is told the times.

    Solvers, controls, bounds and likelihoods take it for the model; whatever reads weights should have the model.

    Args:
        model: any; of those that know classes, classes are passed on.
        tell: called with `t`, before the model is.
    """

    def __init__(self, model: Any, tell: Callable[[Tensor], None]) -> None:
        self.model = model
        self.tell = tell

    @property
    def sde(self) -> SDE:
        """The forward process."""
        return self.model.sde

    @property
    def no_density(self) -> str:
        """Why there is no log-likelihood; empty if there is."""
        return getattr(self.model, "no_density", "")

    def score(self, x: Tensor, t: Tensor, *classes: Any, **named: Any) -> Tensor:
        """`∇ log p_t(x)`; shape of `x`."""
        self.tell(t)
        return self.model.score(x, t, *classes, **named)

    def denoise(self, x: Tensor, t: Tensor, *classes: Any, **named: Any) -> Tensor:
        """`E[x_0 | x_t = x]`; shape of `x`."""
        self.tell(t)
        return self.model.denoise(x, t, *classes, **named)
