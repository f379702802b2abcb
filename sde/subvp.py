r"""The sub-variance-preserving SDE (Song et al. 2021, arXiv:2011.13456, equation 12).

    alpha = exp(-B / 2),     sigma = 1 - exp(-B),     B(t) = ∫_0^t beta

It shares VP's `alpha`; its variance is below VP's at every time, and `g^2 = beta (1 - alpha^4)` follows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.sde.marginals import on_host
from score_sde.sde.vp import VPSDE


class SubVPSDE(VPSDE):
    """Sub-VP SDE with VP's linear `beta(t)`; arguments as for `VPSDE`."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral_beta(t))

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        # sigma / alpha = 2 sinh(B / 2)
        return self.time_at_integral_beta(2 * torch.asinh(torch.exp(-0.5 * on_host(log_snr)) / 2))
