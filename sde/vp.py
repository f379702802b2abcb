r"""The variance-preserving SDE, the continuous limit of DDPM (Song et al. 2021, arXiv:2011.13456, equation 11).

dx = -1/2 beta(t) x dt + sqrt(beta(t)) dw,      beta(t) = beta_min + t (beta_max - beta_min)
B(t) = ∫_0^t beta = beta_min t + t^2 (beta_max - beta_min) / 2
alpha = exp(-B / 2),     sigma^2 = 1 - exp(-B)
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.sde.base import SDE, check_first_time
from score_sde.sde.marginals import on_host


class VPSDE(SDE):
    """Variance-preserving SDE with a linear `beta(t)` on `[0, 1]`.

    Args:
        beta_min: `beta(0)`, in 1/time.
        beta_max: `beta(1)`, in 1/time.
        t_min: smallest time at which a model should be evaluated.

    Raises:
        UserError: a beta is negative, there is no noise at all, or `t_min` is out of range.
    """

    @checked
    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> None:
        if not (beta_min >= 0 and beta_max >= 0 and beta_min + beta_max > 0):
            raise UserError(f"beta_min={beta_min:g} and beta_max={beta_max:g} must not be negative, nor both 0")
        check_first_time(t_min, self.T)
        self.beta_min = beta_min
        self.beta_max = beta_max
        self.t_min = t_min

    @property
    def prior_std(self) -> float:
        """Data of unit variance keep it, and the paper's prior is `N(0, I)`."""
        return 1.0

    def integral_beta(self, t: Tensor) -> Tensor:
        """Return `B(t) = ∫_0^t beta`; shape of `t`."""
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def time_at_integral_beta(self, integral: Tensor) -> Tensor:
        """Return the time with this `B`, a root of a quadratic; the nearest end for values out of range."""
        integral = integral.clamp(max=0.5 * (self.beta_min + self.beta_max) * self.T)
        slope = self.beta_max - self.beta_min
        root = 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))
        return root.clamp(max=self.T)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        # alpha^2 / sigma^2 = 1 / (exp(B) - 1)
        log_snr = on_host(log_snr)
        return self.time_at_integral_beta(torch.logaddexp(-log_snr, torch.zeros_like(log_snr)))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.integral_beta(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral_beta(t)))
