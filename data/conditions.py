r"""What a network is told of an example, its class and whether it was distorted, as one number.

With `K` classes (none, if the network is not told of them):

    0 … K - 1       the class
    K … 2K - 1      the class, of a distorted picture          } where pictures are distorted
    2K              no class, of a distorted picture           }
    the last        neither

A label that is hidden now and then in training makes the network know `p(x)` beside `p(x | class)`, which guidance
needs (Ho & Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Labels(NamedTuple):
    """How labels are numbered.

    Attributes:
        num_classes: `K`; 0 if the network is not told of classes.
        distortion: whether it is told of distortion.
    """

    num_classes: int = 0
    distortion: bool = False

    @property
    def none(self) -> int:
        """The label that says nothing: how many others there are."""
        return 2 * self.num_classes + 1 if self.distortion else self.num_classes

    @property
    def undistorted(self) -> Tensor:
        """The label of the same class, not distorted, for each label `(none + 1,)`, int64."""
        plain = self.of(torch.arange(self.num_classes + 1))  # of each class, and of none
        return torch.cat([plain[:-1], plain, plain[-1:]]) if self.distortion else plain

    def of(self, classes: Tensor, distorted: Tensor | None = None) -> Tensor:
        """The label of each example `(B,)`, int64.

        Args:
            classes: of each `(B,)`; `num_classes` for those without.
            distorted: whether each is, `(B,)`; none are if left out.
        """
        plain = torch.where(classes == self.num_classes, self.none, classes)
        return plain if distorted is None else torch.where(distorted, self.num_classes + classes, plain)
