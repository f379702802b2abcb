r"""Trajectories: the states that a solver goes through, and what it learns about the data at each.

A state `x` at time `t` says of the data `D = E[x_0 | x_t = x]`. A solver asks the model about the states it steps from,
and the answer has `D` in it, at least by Tweedie's formula,

    D = (x + sigma^2 score) / alpha

So a trajectory is written down beside the solver (`Watch`), at no further call of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from score_sde.common.gaussian import Gaussian
from score_sde.common.posterior import Posterior
from score_sde.common.score import no_score
from score_sde.sde import SDE

if TYPE_CHECKING:
    from score_sde.solvers.base import Model


class State(NamedTuple):
    """A state that a solver has reached.

    Attributes:
        t: its time, float64, on the CPU: `()`, or `(B,)` where each example has steps of its own. 0 at `sigma = 0`.
        x: the states `(B, *dims)`. They are the solver's own: not to be changed in place.
        denoised: `E[x_0 | x_t = x]` as the model answered, shape of `x`; `x` itself at `sigma = 0`; the Gaussian's
            answer where it stands for the model's, in a first step without a call. None where the model was not asked
            about this state.
    """

    t: Tensor
    x: Tensor
    denoised: Tensor | None


class Watch:
    """A model again, beside which the states are written down that a solver says to have reached.

    What is learnt about a state comes from the next call of the model, if it is made there: at the same tensor `x`, at
    the same time.

    Args:
        model: the model that is asked.
        tell: a function that is called with each state, as soon as it is known what was learnt there.
    """

    def __init__(self, model: Model, tell: Callable[[State], None]) -> None:
        self.model = model
        self._tell = tell
        self._waiting: State | None = None

    @property
    def sde(self) -> SDE:
        """The forward process is the model's."""
        return self.model.sde

    @property
    def gaussian(self) -> Gaussian | None:
        """The Gaussian that the data look like is the model's, if it knows one."""
        return getattr(self.model, "gaussian", None)

    @property
    def no_score(self) -> str:
        """The reason why there is no score is the model's; it is empty if there is one."""
        return no_score(self.model)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x)`; shape of `x`."""
        score = self.model.score(x, t)
        if self._waits_for(x, t):
            self.reached(t, x, tweedie(self.sde, x, t, score))
        return score

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x]`; shape of `x`."""
        denoised = self.model.denoise(x, t)
        if self._waits_for(x, t):
            self.reached(t, x, denoised)
        return denoised

    @property
    def steps_by_posterior(self) -> bool:
        """Whether steps have the variance of the posterior is for the model to say."""
        return getattr(self.model, "steps_by_posterior", False)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x`; each of the shape of `x`."""
        posterior = self.model.posterior(x, t)  # type: ignore[attr-defined]
        if self._waits_for(x, t):
            self.reached(t, x, posterior.mean)
        return posterior

    @property
    def jump(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The jumps along the flow are the model's, if it has any."""
        return self.model.jump  # type: ignore[attr-defined]

    def reached(self, t: Tensor | float, x: Tensor, denoised: Tensor | None = None) -> None:
        """Write down that `x` `(B, *dims)` was reached at `t`, and what was learnt there, if the solver knows it."""
        state = State(torch.as_tensor(t, dtype=torch.float64).clone(), x, denoised)
        if not self._waits_for(state.x, state.t):
            self.finish()
        self._waiting = state
        if denoised is not None:
            self.finish()

    def finish(self) -> None:
        """Tell the state about which nothing more can be learnt, if there is one."""
        if self._waiting is not None:
            state, self._waiting = self._waiting, None
            self._tell(state)

    def _waits_for(self, x: Tensor, t: Tensor) -> bool:
        return self._waiting is not None and x is self._waiting.x and torch.equal(t, self._waiting.t)


def tweedie(sde: SDE, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
    """Return `(x + sigma^2 score) / alpha`; shape of `x`."""
    here = sde.at(t)
    return (x + sde.expand(here.sigma**2, x) * score) / sde.expand(here.alpha, x)
