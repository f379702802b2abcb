"""Image pyramids beside a U-Net: the input shown again at every resolution, the output summed over resolutions.

After StyleGAN2's skip and residual architectures (Karras et al. 2020, arXiv:1912.04958), as used by NCSN++ (Song et al.
2021, arXiv:2011.13456, appendix H). Each takes the features of a resolution and the pyramid so far, and returns both.

Joining a feature map with an image of the same resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.models.layers.basic import conv, group_norm, residual_sum
from score_sde.models.layers.resampling import Downsample, DownsampleConv, Upsample, UpsampleConv
from score_sde.models.layers.space import PLANE, Space


class InputSkip(nn.Module):
    """The image, halved once more, joins the features (`progressive_input="input_skip"`)."""

    def __init__(
        self, image_channels: int, channels: int, combine: Literal["sum", "cat"], fir_kernel: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.downsample = Downsample(fir_kernel)
        self.combine = Combine(image_channels, channels, combine)
        self.out_channels = self.combine.out_channels

    def forward(self, features: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        pyramid = self.downsample(pyramid)
        return self.combine(pyramid, features), pyramid


class InputResidual(nn.Module):
    """A convolutional path goes down from the image, and features are added to it (`progressive_input="residual"`)."""

    def __init__(
        self, pyramid_channels: int, channels: int, skip_rescale: bool, fir_kernel: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.downsample = DownsampleConv(pyramid_channels, channels, fir_kernel)
        self.skip_rescale = skip_rescale
        self.out_channels = channels

    def forward(self, features: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        pyramid = residual_sum(self.downsample(pyramid), features, self.skip_rescale)
        return pyramid, pyramid


class Head(nn.Module):
    """Normalise, activate, convolve: the head makes an image of features, or the start of a residual output pyramid."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        channels_per_group: int = 4,
        init_scale: float = 1.0,
        space: Space = PLANE,
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, channels_per_group)
        self.conv = space.conv(channels, out_channels, init_scale=init_scale)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(features)))


class OutputSkip(nn.Module):
    """The output is a sum of images, one from each resolution, doubled on the way up (`progressive="output_skip"`)."""

    def __init__(self, head: Head, fir_kernel: Sequence[float] | None) -> None:
        super().__init__()
        self.head = head
        self.upsample = Upsample(fir_kernel)

    def forward(self, features: Tensor, pyramid: Tensor | None) -> tuple[Tensor, Tensor]:
        image = self.head(features)
        return features, image if pyramid is None else self.upsample(pyramid) + image


class OutputResidualStart(nn.Module):
    """The lowest resolution of `OutputResidual` begins the pyramid."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, pyramid: Tensor | None) -> tuple[Tensor, Tensor]:
        return features, self.head(features)


class OutputResidual(nn.Module):
    """A convolutional path goes upwards, and features are added to it (`progressive="residual"`)."""

    def __init__(
        self, pyramid_channels: int, channels: int, skip_rescale: bool, fir_kernel: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.upsample = UpsampleConv(pyramid_channels, channels, fir_kernel)
        self.skip_rescale = skip_rescale

    def forward(self, features: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        pyramid = residual_sum(self.upsample(pyramid), features, self.skip_rescale)
        return pyramid, pyramid


class Combine(nn.Module):
    """Bring an image to the channels of a feature map and add it (`sum`) or put it in front (`cat`).

    `(B, image_channels, H, W)` and `(B, channels, H, W)` to `(B, out_channels, H, W)`; `out_channels` is `channels`, or
    twice that for `cat`.
    """

    def __init__(self, image_channels: int, channels: int, method: Literal["sum", "cat"]) -> None:
        super().__init__()
        self.conv = conv(image_channels, channels, 1)
        self.method = method
        self.out_channels = channels if method == "sum" else 2 * channels

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        image = self.conv(image)
        return image + features if self.method == "sum" else torch.cat([image, features], dim=1)
