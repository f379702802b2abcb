"""Variational dequantisation: noise whose distribution within the bins is learned (Ho et al. 2019, arXiv:1902.00275).

A level `k` becomes `low + w (k + u)`, with `u = sigmoid(y)` and `y` made from logistic noise by affine couplings (Dinh
et al. 2017, arXiv:1605.08803), which see the levels. With `f(y) = log sigmoid(y) + log sigmoid(-y)`, the logistic
distribution's log-density,

    y_0 ~ logistic,    y <- exp(s) y + m  on the white fields of a checkerboard, then on the black,

    log q(x | k) = sum[ f(y_0) - f(y) - s - log w ]

where `s` and `m` are given by a small convolutional network from the other fields and the levels. It starts as uniform
noise: `s = m = 0`.

Fitting variational dequantisation to a score model, which stays as it is (Song et al. 2021, arXiv:2101.09258, D.2).

What is minimised is the model's continuous variational bound on levels with the flow's noise (see `solvers.density.bounds`),

    E[ log q(x | k) + 1/2 (lambda(t_min) - lambda(T)) ||eps - eps_hat(x_t, t)||^2 ],     t uniform in lambda

without the terms that hardly depend on the noise. The flow that is kept has the least value, on training images set
aside and always the same noise; it is never worse there than uniform noise, as which it starts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from score_sde.common.noise import BatchNoise
from score_sde.models import EMA
from score_sde.models.layers.basic import conv
from score_sde.sde.times import UniformLogSNR, sample_times
from score_sde.solvers import Model

_NUM_COUPLINGS = 6
_CHANNELS = 32
# Noise stays this far from the ends of [0, 1], where the logistic distribution has its tails.
_MARGIN = 1e-6


class DequantisationFlow(nn.Module):
    """The distribution of noise given levels, for images; see `evaluation.likelihood.dequantisation.VariationalDequantiser`.

    Args:
        num_channels: of the images.
        num_levels: of their brightness.
        low: lower edge of level 0, in model units.
        bin_width: of each level, likewise.
    """

    def __init__(self, num_channels: int, num_levels: int, low: float, bin_width: float) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.low = low
        self.bin_width = bin_width
        self.couplings = nn.ModuleList(_Coupling(num_channels) for _ in range(_NUM_COUPLINGS))

    def forward(self, levels: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Levels `(B, C, H, W)` with noise, made from uniform noise in [0, 1) of the same shape.

        Returns `x` in model units, shape and dtype of the noise, and `log q(x | k)` `(B,)` in nats, float64.
        """
        numbers = levels.to(uniform)
        context = torch.cat(
            [2 * numbers / (self.num_levels - 1) - 1, numbers == 0, numbers == self.num_levels - 1], dim=1
        )
        y = torch.logit(uniform, eps=_MARGIN)
        log_q = _log_logistic(y) - math.log(self.bin_width)
        for index, coupling in enumerate(self.couplings):
            y, log_scale = coupling(y, context, index % 2)
            log_q = log_q - log_scale
        log_q = log_q - _log_logistic(y)
        x = self.low + self.bin_width * (numbers + torch.sigmoid(y))
        return x, log_q.double().flatten(1).sum(1)


class _Coupling(nn.Module):
    """One affine coupling."""

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
        """The changed `y`, and `s` where it was changed; from fields of the other parity."""
        rows, columns = (torch.arange(size, device=y.device) for size in y.shape[-2:])
        changes = ((rows[:, None] + columns) % 2 == parity).to(y.dtype)
        seen = (1 - changes) * (2 * torch.sigmoid(y) - 1)
        raw_scale, shift = self.network(torch.cat([seen, context], dim=1)).chunk(2, dim=1)
        log_scale = changes * 2 * torch.tanh(raw_scale)
        return torch.exp(log_scale) * y + changes * shift, log_scale


def _log_logistic(y: Tensor) -> Tensor:
    return logsigmoid(y) + logsigmoid(-y)


_BATCH_SIZE = 128
_LEARNING_RATE = 5e-3
_EVALUATE_EVERY = 100
_SET_ASIDE = 0.1
# Noises for each image set aside.
_REPEATS = 4
_EMA_DECAY = 0.99


def fit_dequantisation(
    flow: DequantisationFlow,
    model: Model,
    levels: Tensor,
    num_steps: int,
    t_min: float,
    seed: int = 0,
    report: Callable[[int, float], None] | None = None,
) -> tuple[DequantisationFlow, float]:
    """Train `flow`; returns the best moving average, and how many bits/dim it gains over where it started.

    Args:
        flow: on the model's device; trained in place.
        model: the score model; gradients flow through its input.
        levels: training images `(N, C, H, W)`, whole numbers.
        num_steps: of training.
        t_min: smallest time of the bound.
        seed: of batches and noise.
        report: told each step, and the gain so far.
    """
    device = next(flow.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(levels), generator=generator)
    num_aside = max(1, int(_SET_ASIDE * len(levels)))
    aside, rest = order[:num_aside], order[num_aside:]
    times = UniformLogSNR(model.sde, t_min)
    optimizer = torch.optim.Adam(flow.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    average, best = EMA(flow, _EMA_DECAY), copy.deepcopy(flow)

    def bound(flow: DequantisationFlow, rows: Tensor, generator: torch.Generator) -> Tensor:
        images = levels[rows].to(device)
        uniform, eps = (make(images.shape, generator=generator).to(device) for make in (torch.rand, torch.randn))
        t = sample_times(times, BatchNoise(len(rows), generator))
        x, log_q = flow(images, uniform)
        x_t = model.sde.perturb(x, eps, t)
        error = eps + model.sde.expand(model.sde.at(t).sigma, x) * model.score(x_t, t)
        return log_q + (times.high - times.low) / 2 * error.double().flatten(1).square().sum(1)

    def held_out(flow: DequantisationFlow) -> float:
        rows, noise = aside.repeat(_REPEATS), torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            values = [bound(flow, part, noise) for part in rows.split(2 * _BATCH_SIZE)]
        return torch.cat(values).mean().item() / (levels[0].numel() * math.log(2))

    start = least = held_out(flow)
    for step in range(1, num_steps + 1):
        rows = rest[torch.randint(len(rest), (_BATCH_SIZE,), generator=generator)]
        optimizer.zero_grad()
        bound(flow, rows, generator).mean().div(levels[0].numel()).backward()
        optimizer.step()
        schedule.step()
        average.update(flow)
        if step % _EVALUATE_EVERY == 0 or step == num_steps:
            value = held_out(average.model)
            if value < least:
                least, best = value, copy.deepcopy(average.model)
        if report is not None:
            report(step, start - least)
    return best, start - least
