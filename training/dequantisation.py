"""Fitting variational dequantisation to a score model, which stays as it is (Song et al. 2021, arXiv:2101.09258, D.2).

What is minimised is the model's continuous variational bound on levels with the flow's noise (see
`solvers.density.bounds`),

    E[ log q(x | k) + 1/2 (lambda(t_min) - lambda(T)) ||eps - eps_hat(x_t, t)||^2 ],     t uniform in lambda

without the terms that hardly depend on the noise. The flow that is kept has the least value, on training images set
aside and always the same noise; it is never worse there than uniform noise, as which it starts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.common.float64 import in_float64
from score_sde.common.noise import BatchNoise
from score_sde.models import EMA
from score_sde.models.dequantisation_flow import DequantisationFlow
from score_sde.sde.times import UniformLogSNR, sample_times
from score_sde.solvers import Model

_BATCH_SIZE = 128
_LEARNING_RATE = 5e-3
_EVALUATE_EVERY = 100
_SET_ASIDE = 0.1
# Each image set aside has so many draws of noise.
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
    """Train `flow`; return its best moving average, and how many bits/dim that gains over where it started.

    Args:
        flow: the distribution of noise, on the model's device; it is trained in place.
        model: the score model; gradients flow through its input.
        levels: training images `(N, C, H, W)`, whole numbers.
        num_steps: number of training steps.
        t_min: smallest time of the bound.
        seed: seed of batches and noise.
        report: called after each step, with its number and the gain so far.
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
        return log_q + (times.high - times.low) / 2 * in_float64(error).flatten(1).square().sum(1)

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
