"""The space that feature maps `(B, C, *size)` extend over: one, two or three axes, which may close on themselves.

Along an axis that is periodic, the neighbour of the last position is the first: convolutions find those beyond the edge
on the other side, where on other axes they find zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.models.layers.basic import initialise

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_MEANS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Space(NamedTuple):
    """A space is known by its axes.

    Attributes:
        periodic: whether each axis closes on itself, in the order of the axes.
    """

    periodic: tuple[bool, ...]

    @property
    def dims(self) -> int:
        """The number of axes is 1, 2 or 3."""
        return len(self.periodic)

    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 3, *, init_scale: float = 1.0) -> nn.Module:
        """Return a convolution that keeps the size, initialised as all layers (see `basic`)."""
        around = kernel_size // 2
        padding = tuple(0 if closed else around for closed in self.periodic)
        layer = _CONVOLUTIONS[self.dims](in_channels, out_channels, kernel_size, padding=padding)
        initialise(layer, init_scale)
        closed_axes = [axis for axis, closed in enumerate(self.periodic, start=2) if closed]
        return nn.Sequential(Wrap(closed_axes, around), layer) if closed_axes and around else layer

    def halve(self, x: Tensor) -> Tensor:
        """Return the means of two neighbours along each axis: `(B, C, *size)` to half the size."""
        return _MEANS[self.dims](x, 2)


PLANE = Space((False, False))


class Wrap(nn.Module):
    """Some axes are continued at both ends by what lies at the other end.

    Args:
        axes: the axes of the tensor, of which the batch's is 0.
        width: by how many positions they are continued.
    """

    def __init__(self, axes: list[int], width: int) -> None:
        super().__init__()
        self.axes = axes
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            last = x.narrow(axis, x.shape[axis] - self.width, self.width)
            x = torch.cat([last, x, x.narrow(axis, 0, self.width)], axis)
        return x
