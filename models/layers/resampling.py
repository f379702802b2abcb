"""Halving and doubling the resolution of feature maps, with or without a learned convolution, with or without a FIR
filter.

Without a filter, halving takes the mean of 2 x 2 pixels and doubling repeats each pixel (Ho et al. 2020,
arXiv:2006.11239), and so along one axis or three. See `models.layers.fir` for the filtered kinds, of pictures. Layers
that stand between two resolutions take the noise embedding too, and ignore it, since a residual block may stand in the
same place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.models.layers import fir
from score_sde.models.layers.basic import conv
from score_sde.models.layers.space import PLANE, Space


class _Resample(nn.Module):
    """A resampling keeps the FIR kernel, if it has one, as a buffer that follows the module's device and dtype."""

    kernel: Tensor | None

    def __init__(self, fir_kernel: Sequence[float] | None = None) -> None:
        super().__init__()
        kernel = None if fir_kernel is None else fir.fir_kernel_2d(fir_kernel)
        self.register_buffer("kernel", kernel, persistent=False)


class Downsample(_Resample):
    """Halve the size, with nothing learned: `(B, C, H, W)` to `(B, C, H / 2, W / 2)`, or in another `space`."""

    def __init__(self, fir_kernel: Sequence[float] | None = None, space: Space = PLANE) -> None:
        super().__init__(fir_kernel)
        self.space = space

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        return self.space.halve(x) if self.kernel is None else fir.downsample(x, self.kernel)


class Upsample(_Resample):
    """Double the size, with nothing learned: `(B, C, H, W)` to `(B, C, 2H, 2W)`, or in another space."""

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        return (
            F.interpolate(x, scale_factor=2.0, mode="nearest") if self.kernel is None else fir.upsample(x, self.kernel)
        )


class DownsampleConv(_Resample):
    """Halve an image's size by a 3 x 3 convolution of stride two: `(B, C, H, W)` to `(B, C', H / 2, W / 2)`.

    Zeros are added beyond the last row and column, as in DDPM, or, if `from_first`, before the first, as in ADM.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        fir_kernel: Sequence[float] | None = None,
        from_first: bool = False,
    ) -> None:
        super().__init__(fir_kernel)
        self.conv = conv(in_channels, out_channels, stride=2, padding=0)
        self.around = (1, 0, 1, 0) if from_first else (0, 1, 0, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        if self.kernel is None:
            return self.conv(F.pad(x, self.around))
        return fir.downsample_conv(x, self.conv.weight, self.conv.bias, self.kernel)


class UpsampleConv(_Resample):
    """Double an image's size by a 3 x 3 convolution at the higher resolution: `(B, C, H, W)` to `(B, C', 2H, 2W)`."""

    def __init__(self, in_channels: int, out_channels: int, fir_kernel: Sequence[float] | None = None) -> None:
        super().__init__(fir_kernel)
        self.conv = conv(in_channels, out_channels)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        if self.kernel is None:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return fir.upsample_conv(x, self.conv.weight, self.conv.bias, self.kernel)
