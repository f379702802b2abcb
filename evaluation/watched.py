"""A model whose calls are counted by somebody else, as `progress.Progress` does; results are the model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from score_sde.common.gaussian import Gaussian
from score_sde.common.posterior import Posterior
from score_sde.models.wrapper import StepsAsModel
from score_sde.solvers.base import gaussian_of_model


class Watched(StepsAsModel):
    """`model` is a model again, and `tell` is told the times of each call of it.

    Solvers, controls, bounds and likelihoods take it for the model; whatever reads weights should have the model.

    Args:
        model: the model that is called, of any kind.
        tell: a function that is called with `t`, before the model is.
    """

    def __init__(self, model: Any, tell: Callable[[Tensor], None]) -> None:
        super().__init__(model)
        self.tell = tell

    @property
    def gaussian(self) -> Gaussian | None:
        """The Gaussian that the data look like is the model's, if it knows one."""
        return gaussian_of_model(self.model)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x)`; shape of `x`."""
        self.tell(t)
        return super().score(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x]`; shape of `x`."""
        self.tell(t)
        return super().denoise(x, t)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x`; each of the shape of `x`."""
        self.tell(t)
        return super().posterior(x, t)

    def state_dict(self) -> dict[str, Any]:
        """Return the model's numbers, by which it is known again; it has none if it is no module."""
        return getattr(self.model, "state_dict", dict)()

    @property
    def jump(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The jumps along the flow are the model's, if it has any."""
        jump = self.model.jump

        def told(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            self.tell(t)
            return jump(x, t, s)

        return told
