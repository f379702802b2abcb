"""The loss by noise: where, between data and noise, a model still errs.

The range of log-SNRs that are trained on is cut into equal intervals, and the losses that fall into each are averaged.
They are added up on the CPU in float64, whatever a device can do. Where the range is learned it is that of the
beginning, and the outer intervals have what lies beyond.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.sde import SDE
from score_sde.sde.times import log_snr_range
from score_sde.training.objectives import Losses

_NUM_INTERVALS = 8


class LossByNoise:
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
        self.names = [f"loss_at_log_snr/{middle:.1f}" for middle in middles]
        self._sums = np.zeros((2, _NUM_INTERVALS))

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

    def sums(self) -> Tensor:
        """Return sums of losses and their numbers, `(2, intervals)`, float64, of all processes, and all must ask."""
        own = torch.from_numpy(self._sums.copy())
        if distributed.world_size() == 1:
            return own
        return distributed.world_size() * distributed.mean(own.to(distributed.device())).cpu()

    def restore(self, sums: Tensor) -> None:
        """Restore what `sums` returned; the first process has it all."""
        self._sums[:] = sums.numpy() if distributed.rank() == 0 else 0.0

    def take(self) -> dict[str, float]:
        """Return the means by name, of intervals that had any loss, of all processes together, and begin anew."""
        totals, counts = self.sums().tolist()
        self._sums[:] = 0.0
        return {name: total / count for name, total, count in zip(self.names, totals, counts, strict=True) if count > 0}
