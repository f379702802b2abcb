"""A process that ends earlier: solvers that start at its `T` start in the middle of the original."""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.sde.base import SDE


class Truncated(SDE):
    """`sde` up to time `T`.

    Args:
        sde: the forward process.
        T: between its `t_min` and its `T`.

    Raises:
        UserError: `T` is out of range.
    """

    @checked
    def __init__(self, sde: SDE, T: float) -> None:
        if not sde.t_min < T <= sde.T:
            raise UserError(f"the time to start from must lie between {sde.t_min:g} and {sde.T:g}, not {T:g}")
        self.sde = sde
        self.T = T
        self.t_min = sde.t_min

    def alpha(self, t: Tensor) -> Tensor:
        return self.sde.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sde.sigma(t)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.clamp(self.sde.time_at_log_snr(log_snr), max=self.T)
