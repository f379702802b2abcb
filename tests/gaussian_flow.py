"""The exact flow map of a Gaussian with a diagonal covariance, whose mean and variances can be trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.models import FlowMap
from score_sde.models.flow_map import rho_of
from score_sde.sde import SDE

FLOAT = torch.float64


class GaussianFlow(FlowMap):
    """Data `N(mean, diag(variances))`: `y_s = mean + (y_t - mean) sqrt((v + rho_s^2) / (v + rho_t^2))`."""

    def __init__(self, process: SDE, mean: list[float], variances: list[float], data_std: float = 0.7) -> None:
        nn.Module.__init__(self)
        self.process, self.std = process, data_std
        self.mean = nn.Parameter(torch.tensor(mean, dtype=FLOAT))
        self.variances = nn.Parameter(torch.tensor(variances, dtype=FLOAT))

    @property
    def sde(self) -> SDE:
        return self.process

    @property
    def data_std(self) -> float:
        return self.std

    def flow(self, x: Tensor, t: Tensor, rho: Tensor) -> Tensor:
        """Return `y` at these noise-to-signal ratios, from `x` at `t`."""
        here = self.sde.at(t)
        ratio = (self.variances + self.sde.expand(rho, x) ** 2) / (self.variances + self.sde.expand(here.rho, x) ** 2)
        return self.mean + (x / self.sde.expand(here.alpha, x) - self.mean) * ratio.sqrt()

    def exact(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the state at `s`, in closed form."""
        alpha = torch.where(s > 0, self.sde.at(s).alpha, 1.0)
        return self.sde.expand(alpha, x) * self.flow(x, t, rho_of(self.sde, s))

    def mean_denoised(self, x: Tensor, t: Tensor, position: Tensor, condition: Condition | None = None) -> Tensor:
        here, rho = self.sde.at(t), self.rho_at(position)
        part = self.sde.expand(rho / here.rho, x)
        return (self.flow(x, t, rho) - part * x / self.sde.expand(here.alpha, x)) / (1 - part)

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        here = self.sde.at(t)
        gain = self.variances / (self.variances + self.sde.expand(here.rho, x) ** 2)
        return self.mean + gain * (x / self.sde.expand(here.alpha, x) - self.mean)

    def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        alpha, sigma = self.sde.at(t).to(x)
        return (alpha * self.denoise(x, t) - x) / sigma**2
