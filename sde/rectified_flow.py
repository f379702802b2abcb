r"""Rectified flow: straight lines from data to noise (Liu et al. 2023, arXiv:2209.03003; Lipman et al. 2023,
arXiv:2210.02747, with their `t` reversed; Esser et al. 2024, arXiv:2403.03206).

    alpha = 1 - t,     sigma = t,     dx/dt = eps - x_0,     log_snr = 2 log((1 - t) / t)

At `T = 1` nothing of the data is left, and the prior is `p_T` exactly. There `f = -1 / (1 - t)` and `g^2 = 2 t / (1 -
t)` are infinite, but the probability flow is not: `dx/dt = E[eps - x_0 | x_t]`, the prediction "flow".
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.sde.base import SDE, check_first_time
from score_sde.sde.marginals import on_host


class RectifiedFlow(SDE):
    """The process of straight lines on `[0, 1]`.

    Args:
        t_min: smallest time at which a model should be evaluated.

    Raises:
        UserError: `t_min` is out of range.
    """

    @checked
    def __init__(self, t_min: float = 1e-3) -> None:
        check_first_time(t_min, self.T)
        self.t_min = t_min

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * on_host(log_snr))
