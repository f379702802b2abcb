"""A process with a learned schedule whose weights are drawn at random: nothing of it is linear."""

from __future__ import annotations

import torch

from score_sde.sde import LearnedSDE


def random_schedule(seed: int = 0, log_snr_max: float = 13.3, log_snr_min: float = -9.0, **options: bool) -> LearnedSDE:
    """Return a process between these ends whose log-SNR falls thirty times as fast here as there."""
    sde = LearnedSDE(log_snr_max, log_snr_min, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sde.log_slope.fill_(-1.0)
        sde.log_heights.add_(0.4 * torch.randn(sde.centres.shape, generator=generator))
        sde.log_rates.sub_(0.25 * torch.rand(sde.centres.shape, generator=generator))
        sde.centres.add_(0.04 * torch.randn(sde.centres.shape, generator=generator))
    return sde
