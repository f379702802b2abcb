"""A flow that is no score and has closed forms: data `N(0, s^2 I)` that optimal transport couples with its noise.

With `x_0 = s eps`, a state is `x_t = (alpha s + sigma) eps`: noise and data stay what they are along a trajectory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.score import check_score
from score_sde.sde import SDE


class Transported:
    """The flow of data `N(0, s^2 I)`, coupled with its noise.

    Args:
        sde: the forward process.
        std: the standard deviation `s` of the data.
    """

    no_score = "it is transported"

    def __init__(self, sde: SDE, std: float = 0.5) -> None:
        self.sde = sde
        self.std = std

    def scale(self, t: Tensor) -> Tensor:
        """Return the standard deviation of `x_t`, `alpha s + sigma`; float64, shape of `t`."""
        here = self.sde.at(t)
        return here.alpha * self.std + here.sigma

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x] = s x / (alpha s + sigma)`; shape of `x`."""
        return self.sde.expand(self.std / self.scale(t), x) * x

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Raise `NoScoreError`: there is none."""
        check_score(self, "this")
        raise AssertionError


def latents(model: Transported, count: int = 4, dims: tuple[int, ...] = (2,)) -> tuple[Tensor, Tensor]:
    """Return states at `T` of the flow, and the data they come from; float64, `(count, *dims)`."""
    eps = torch.randn(count, *dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return model.scale(torch.tensor(model.sde.T)) * eps, model.std * eps
