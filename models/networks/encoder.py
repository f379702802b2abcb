"""The encoder half of a U-Net with one output an image: a classifier that is told the time (Dhariwal & Nichol
2021, arXiv:2105.05233, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.models.layers.basic import conv, group_norm, linear
from score_sde.models.layers.embeddings import NoiseEmbedding, PositionalFeatures
from score_sde.models.layers.resampling import Downsample
from score_sde.models.layers.residual import ResidualBlock


class Encoder(nn.Module):
    """Residual blocks at falling resolutions, a mean over positions and a linear layer make numbers of an image.

    Call it as `network(x, noise_label)`, with images `x` `(B, in_channels, H, W)` and labels `(B,)` that count in
    steps; it returns `(B, num_outputs)`.

    Args:
        image_size: height and width, or one number for both; multiples of `2^(resolutions - 1)`.
        in_channels: channels of the input.
        num_outputs: numbers for each image.
        channels: width at the highest resolution.
        channel_multipliers: width at each resolution in units of `channels`, from the highest resolution down.
        num_blocks: residual blocks per resolution.
        dropout: probability of dropping an activation.

    Raises:
        UserError: images cannot be halved at every resolution.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int,
        num_outputs: int,
        *,
        channels: int = 32,
        channel_multipliers: Sequence[int] = (1, 2, 2),
        num_blocks: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        multiple = 2 ** (len(channel_multipliers) - 1)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height % multiple or width % multiple:
            raise UserError(
                f"images of {height} x {width} cannot be halved at every resolution of this classifier: use "
                "fewer channel_multipliers"
            )
        self.embedding = NoiseEmbedding(PositionalFeatures(channels), 4 * channels)
        self.conv_in = conv(in_channels, channels)
        self.blocks = nn.ModuleList()
        here = channels
        for depth, multiplier in enumerate(channel_multipliers):
            for block in range(num_blocks):
                down = Downsample() if depth > 0 and block == 0 else None
                width = channels * multiplier
                self.blocks.append(ResidualBlock(here, width, 4 * channels, resample=down, dropout=dropout))
                here = width
        self.norm = group_norm(here)
        self.output = linear(here, num_outputs)

    def shard_units(self) -> list[nn.Module]:
        """List the parts whose weights are gathered at a time where they are divided among processes."""
        return list(self.blocks)

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        embedding = self.embedding(noise_label)
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.output(F.silu(self.norm(h)).mean((2, 3)))
