"""Means of losses that are told apart, beside the loss itself: by noise (`training.loss_by_noise`), or by term.

They are added up on the CPU in float64, whatever a device can do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.training.objectives import Losses


class LossMeans:
    """Losses are averaged by name, from when they were last taken.

    Args:
        names: the names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._sums = np.zeros((2, len(names)))

    def add(self, losses: Losses) -> None:
        """Add the losses of a batch."""
        raise NotImplementedError

    def sums(self) -> Tensor:
        """Return sums of losses and their numbers, `(2, names)`, float64, of all processes, and all must ask."""
        own = torch.from_numpy(self._sums.copy())
        if distributed.world_size() == 1:
            return own
        return distributed.world_size() * distributed.mean(own.to(distributed.device())).cpu()

    def restore(self, sums: Tensor) -> None:
        """Restore what `sums` returned, if it is of as many names; the first process has it all."""
        if sums.shape == self._sums.shape:
            self._sums[:] = sums.numpy() if distributed.rank() == 0 else 0.0

    def take(self) -> dict[str, float]:
        """Return the means by name, of names that had any loss, of all processes together, and begin anew."""
        totals, counts = self.sums().tolist()
        self._sums[:] = 0.0
        return {name: total / count for name, total, count in zip(self.names, totals, counts, strict=True) if count > 0}


class LossByTerm(LossMeans):
    """The terms that losses are made of are averaged; the names are those of the columns of `Losses.terms`."""

    def add(self, losses: Losses) -> None:
        assert losses.terms is not None
        terms = losses.terms.cpu().double().numpy()
        there = ~np.isnan(terms)
        self._sums += np.stack([np.where(there, terms, 0.0).sum(0), there.sum(0)])
