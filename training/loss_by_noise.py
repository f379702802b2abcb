"""The loss by noise: where, between data and noise, a model still errs.

The range of log-SNRs that are trained on is cut into equal intervals, and the losses that fall into each are averaged.
Where the range is learned it is that of the beginning, and the outer intervals have what lies beyond.
"""

from __future__ import annotations

import numpy as np
import torch

from score_sde.sde import SDE
from score_sde.sde.times import log_snr_range
from score_sde.training.loss_means import LossMeans
from score_sde.training.objectives import Losses

_NUM_INTERVALS = 8


class LossByNoise(LossMeans):
    """Losses are averaged in equal intervals of log-SNR, from when they were last taken.

    Args:
        sde: the forward process.
        t_min: smallest time trained on.
    """

    def __init__(self, sde: SDE, t_min: float) -> None:
        high, self._low = log_snr_range(sde, t_min)
        self._sde = sde
        self._width = (high - self._low) / _NUM_INTERVALS
        middles = [self._low + (k + 0.5) * self._width for k in range(_NUM_INTERVALS)]
        super().__init__([f"loss_at_log_snr/{middle:.1f}" for middle in middles])

    @torch.no_grad()
    def add(self, losses: Losses) -> None:
        """Add the losses of a batch, which must have times."""
        assert losses.times is not None
        log_snr = self._sde.log_snr(losses.times.cpu().double()) if losses.log_snr is None else losses.log_snr
        place = ((log_snr - self._low) / self._width).long().clamp(0, _NUM_INTERVALS - 1).numpy()
        values = losses.values.detach().cpu()
        # NumPy has no bfloat16, so losses are added in float32 at least.
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        np.add.at(self._sums[0], place, values.numpy())
        np.add.at(self._sums[1], place, 1.0)
