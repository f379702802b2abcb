"""Joining a feature map with an image of the same resolution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.basic import conv


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
