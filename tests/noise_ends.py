"""A process of one's own that ends in nothing but noise, as the README has it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from score_sde.sde import SDE


class CosineSDE(SDE):
    """The process `alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`."""

    T, t_min = 1.0, 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)
