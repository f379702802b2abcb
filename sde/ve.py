r"""The variance-exploding SDE, the continuous limit of NCSN (Song et al. 2021, arXiv:2011.13456, equation 9).

alpha = 1,     sigma(t) = sigma_min (sigma_max / sigma_min)^t
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.sde.base import SDE, check_first_time
from score_sde.sde.marginals import on_host


class VESDE(SDE):
    """Variance-exploding SDE with a geometric `sigma(t)` on `[0, 1]`.

    Args:
        sigma_min: `sigma(0)`, in the units of the data.
        sigma_max: `sigma(1)`, about the largest distance between two data points.
        t_min: smallest time at which a model should be evaluated.

    Raises:
        UserError: the noise does not grow from above 0, or `t_min` is out of range.
    """

    @checked
    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0, t_min: float = 1e-5) -> None:
        if not 0 < sigma_min < sigma_max:
            raise UserError(f"sigma_min={sigma_min:g} must lie above 0 and below sigma_max={sigma_max:g}")
        check_first_time(t_min, self.T)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.t_min = t_min

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        log_ratio = -0.5 * on_host(log_snr) - math.log(self.sigma_min)
        return (log_ratio / math.log(self.sigma_max / self.sigma_min)).clamp(0, self.T)
