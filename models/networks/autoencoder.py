"""The two halves of an autoencoder, for series, pictures and fields, volumes: to few numbers, and back.

    x -> convolution -> residual blocks -> (halve, residual blocks) ... -> features of latents
    z -> convolution -> residual blocks -> (double, residual blocks) ... -> what is said of x

as of Rombach et al. (2022, arXiv:2112.10752, appendix E.1), of the blocks of our U-Net without noise label. There is no
attention, and each position is normalised by itself: what is decoded at a place depends on the latents near it alone,
so that large examples can be decoded tile by tile (`models.tiles`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import silu

from score_sde.models.layers.basic import PositionNorm
from score_sde.models.layers.resampling import Downsample, Upsample
from score_sde.models.layers.residual import ResidualBlock
from score_sde.models.layers.space import Space


class _Half(nn.Module):
    """One half of an autoencoder is a row of blocks between two convolutions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        space: what examples extend over.
        widths: width at each resolution, in the order in which they come.
        num_blocks: residual blocks at each resolution.
        resample: the layer between two resolutions.
        dropout: probability of dropping an activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: Space,
        widths: Sequence[int],
        num_blocks: int,
        resample: Downsample | Upsample,
        dropout: float,
    ) -> None:
        super().__init__()
        self.conv_in = space.conv(in_channels, widths[0])
        self.blocks = nn.ModuleList()
        here = widths[0]
        for number, width in enumerate(widths):
            for block in range(num_blocks):
                between = resample if number and not block else None
                self.blocks.append(
                    ResidualBlock(
                        here,
                        width,
                        None,
                        resample=between,
                        dropout=dropout,
                        skip_rescale=True,
                        space=space,
                        by_position=True,
                    )
                )
                here = width
        self.norm = PositionNorm(here)
        self.conv_out = space.conv(here, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h)
        return self.conv_out(silu(self.norm(h)))

    def shard_units(self) -> list[nn.Module]:
        """List the parts whose weights are gathered at a time where they are divided among processes."""
        return list(self.blocks)


class ConvEncoder(_Half):
    """The first half makes `(B, out_channels, *size / f)` of `(B, in_channels, *size)`, `f = 2^(resolutions - 1)`.

    Arguments are those of `ConvDecoder`, with `channels` times `channel_multipliers` the widths from the first on.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: Space,
        channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        dropout: float = 0.0,
    ) -> None:
        widths = [channels * multiplier for multiplier in channel_multipliers]
        super().__init__(in_channels, out_channels, space, widths, num_blocks, Downsample(space=space), dropout)


class ConvDecoder(_Half):
    """The second half makes `(B, out_channels, *size)` of `(B, in_channels, *size / f)`.

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the output.
        space: what examples extend over.
        channels: width at the highest resolution.
        channel_multipliers: width at each resolution in units of `channels`, from the highest resolution down.
        num_blocks: residual blocks at each resolution.
        dropout: probability of dropping an activation.

    Attributes:
        radius: how far a latent is felt, in latents.
        periodic: whether an axis closes on itself.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: Space,
        channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        dropout: float = 0.0,
    ) -> None:
        widths = [channels * multiplier for multiplier in reversed(channel_multipliers)]
        super().__init__(in_channels, out_channels, space, widths, num_blocks, Upsample(), dropout)
        # A convolution reaches one position, and those of a latent are twice as many at each further resolution.
        reach = 1 + sum(2 * num_blocks / 2**number for number in range(len(widths))) + 2 / 2 ** len(widths)
        self.radius = math.ceil(reach)
        self.periodic = any(space.periodic)
