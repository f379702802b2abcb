"""Variational dequantisation: noise whose distribution within the bins is learned (Ho et al. 2019, arXiv:1902.00275).

A level `k` becomes `low + w (k + u)`, with `u = sigmoid(y)` and `y` made from logistic noise by affine couplings (Dinh
et al. 2017, arXiv:1605.08803), which see the levels. With `f(y) = log sigmoid(y) + log sigmoid(-y)`, the logistic
distribution's log-density,

    y_0 ~ logistic,    y <- exp(s) y + m  on the white fields of a checkerboard, then on the black,

    log q(x | k) = sum[ f(y_0) - f(y) - s - log w ]

where `s` and `m` are given by a small convolutional network from the other fields and the levels. It starts as uniform
noise: `s = m = 0`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from score_sde.common.float64 import in_float64
from score_sde.data.units import Bins
from score_sde.models.layers.basic import conv

_NUM_COUPLINGS = 6
_CHANNELS = 32
# Noise stays this far from the ends of [0, 1], where the logistic distribution has its tails.
_MARGIN = 1e-6


class DequantisationFlow(nn.Module):
    """The flow makes noise within the bins, given the levels of images, from uniform noise.

    Args:
        num_channels: channels of the images.
        units: the bins of their levels.
    """

    def __init__(self, num_channels: int, units: Bins) -> None:
        super().__init__()
        self.units = units
        self.couplings = nn.ModuleList(_Coupling(num_channels) for _ in range(_NUM_COUPLINGS))

    def forward(self, levels: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Give levels `(B, C, H, W)` noise, made from uniform noise in [0, 1) of the same shape.

        Returns `x` in model units, shape and dtype of the noise, and `log q(x | k)` `(B,)` in nats, float64.
        """
        numbers, brightest = levels.to(uniform), self.units.levels - 1
        context = torch.cat([2 * numbers / brightest - 1, numbers == 0, numbers == brightest], dim=1)
        y = torch.logit(uniform, eps=_MARGIN)
        log_q = _log_logistic(y) - math.log(self.units.spacing)
        for index, coupling in enumerate(self.couplings):
            y, log_scale = coupling(y, context, index % 2)
            log_q = log_q - log_scale
        log_q = log_q - _log_logistic(y)
        return self.units.low + self.units.spacing * (numbers + torch.sigmoid(y)), in_float64(log_q).flatten(1).sum(1)


class _Coupling(nn.Module):
    """An affine map changes the fields of one colour, as the fields of the other and the levels say."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            conv(4 * num_channels, _CHANNELS),
            nn.SiLU(),
            conv(_CHANNELS, _CHANNELS),
            nn.SiLU(),
            conv(_CHANNELS, 2 * num_channels, init_scale=0.0),
        )

    def forward(self, y: Tensor, context: Tensor, parity: int) -> tuple[Tensor, Tensor]:
        """Return the changed `y`, and `s` where it was changed, from fields of the other parity."""
        rows, columns = (torch.arange(size, device=y.device) for size in y.shape[-2:])
        changes = ((rows[:, None] + columns) % 2 == parity).to(y.dtype)
        seen = (1 - changes) * (2 * torch.sigmoid(y) - 1)
        raw_scale, shift = self.network(torch.cat([seen, context], dim=1)).chunk(2, dim=1)
        log_scale = changes * 2 * torch.tanh(raw_scale)
        return torch.exp(log_scale) * y + changes * shift, log_scale


def _log_logistic(y: Tensor) -> Tensor:
    """Return `f(y)`, the log-density of the logistic distribution."""
    return logsigmoid(y) + logsigmoid(-y)
