"""The best model so far, by its held-out loss; and when training is given up for want of a better one."""

from __future__ import annotations

import math
from typing import NamedTuple


class Best(NamedTuple):
    """The lowest held-out loss so far.

    Attributes:
        loss: the loss; infinite before there is one.
        step: the training step after which it was measured; 0 before there is one.
        since: how many held-out losses have been measured since.
    """

    loss: float = math.inf
    step: int = 0
    since: int = 0

    def after(self, loss: float, step: int) -> Best:
        """Return the best after a further loss, which counts as better only if it is lower."""
        return Best(loss, step) if loss < self.loss else self._replace(since=self.since + 1)
