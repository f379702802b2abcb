"""The loss by noise level: where a network still errs."""

from __future__ import annotations

import torch
from torch import Tensor

import distributed
from sde import SDE
from training.noise_levels import log_snr_range
from training.objectives import Losses

_NUM_INTERVALS = 8


class LevelLosses:
    """Mean losses in equal intervals of log-SNR, since they were last asked for.

    Args:
        sde: the forward process.
        t_min: smallest time trained on.
        device: where losses are.
    """

    def __init__(self, sde: SDE, t_min: float, device: torch.device) -> None:
        high, self._low = log_snr_range(sde, t_min)
        self._sde = sde
        self._width = (high - self._low) / _NUM_INTERVALS
        middles = [self._low + (k + 0.5) * self._width for k in range(_NUM_INTERVALS)]
        self.names = [f"loss_at_log_snr/{middle:.1f}" for middle in middles]
        self._sums = torch.zeros(2, _NUM_INTERVALS, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, losses: Losses) -> None:
        """Note the losses of a batch."""
        place = ((self._sde.log_snr(losses.times) - self._low) / self._width).long().clamp(0, _NUM_INTERVALS - 1)
        values = losses.values.double()
        self._sums.index_add_(1, place, torch.stack([values, torch.ones_like(values)]))

    def sums(self) -> Tensor:
        """Sums of losses and their numbers, `(2, intervals)`, float64; all processes together, and all must ask."""
        return distributed.world_size() * distributed.mean(self._sums.clone())

    def restore(self, sums: Tensor) -> None:
        """Go on from what `sums` gave; one process has it all."""
        self._sums.copy_(sums if distributed.rank() == 0 else torch.zeros_like(sums))

    def take(self) -> dict[str, float]:
        """The means, by name, of those intervals that had any loss; all processes together."""
        totals, counts = self.sums().tolist()
        self._sums.zero_()
        return {name: total / count for name, total, count in zip(self.names, totals, counts, strict=True) if count > 0}
