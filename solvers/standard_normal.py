"""Data `N(0, I)` as a model: one that costs nothing, on which solvers are counted and rehearsed."""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.sde import SDE


class StandardNormal:
    """Data `N(0, I)`, of which `p_t = N(0, (alpha^2 + sigma^2) I)`.

    Args:
        sde: the forward process.
        no_score: why it stands for a model that has no score; empty for one that has.
    """

    def __init__(self, sde: SDE, no_score: str = "") -> None:
        self.sde = sde
        self.no_score = no_score

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `-x / (alpha^2 + sigma^2)`; shape of `x`."""
        return -x / self._variance(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `alpha x / (alpha^2 + sigma^2)`; shape of `x`."""
        return self.sde.expand(self.sde.at(t).alpha, x) * x / self._variance(x, t)

    def jump(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the state at time `s` of the flow that is at `x` at `t`; shape of `x`."""
        here, there = self.sde.at(t), self.sde.at(s)
        norm = torch.where(there.t > 0, there.r, 1.0)
        return self.sde.expand(norm / here.r, x) * x

    def _variance(self, x: Tensor, t: Tensor) -> Tensor:
        here = self.sde.at(t)
        return self.sde.expand(here.alpha**2 + here.sigma**2, x)
