"""Residual blocks of convolutions modulated by the noise label.

    x -> (resample) x  +  conv(dropout(silu(norm( conv((resample) silu(norm(x))) + affine(embedding) ))))

Without resampling this is DDPM's block (Ho et al. 2020, arXiv:2006.11239); with it, BigGAN's (Brock et al. 2019,
arXiv:1809.11096), which changes resolution inside the block.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.models.layers.basic import SCALE, PositionNorm, group_norm, linear, residual_sum
from score_sde.models.layers.resampling import Downsample, Upsample
from score_sde.models.layers.space import PLANE, Space


class ResidualBlock(nn.Module):
    """A residual block makes `(B, out_channels, *size')` of features `(B, in_channels, *size)` and an embedding.

    Args:
        embedding_width: size of the noise embedding `(B, embedding_width)`; None for a block that is told nothing.
        resample: a layer that changes the resolution of both branches, if given.
        dropout: probability of dropping an activation.
        channels_per_group: least number of channels in a GroupNorm group.
        init_scale: scale of the last convolution's initial weights.
        shortcut_init_scale: scale of the shortcut's initial weights. The shortcut is the identity unless the number of
            channels or the resolution changes.
        skip_rescale: divide the sum by sqrt(2).
        space: what features extend over.
        scaled: whether normalised features are multiplied by `1 + affine(embedding)`, too.
        by_position: whether each position is normalised by itself, not with all others.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int | None,
        *,
        resample: Downsample | Upsample | None = None,
        dropout: float = 0.0,
        channels_per_group: int = 4,
        init_scale: float = 0.0,
        shortcut_init_scale: float = 1.0,
        skip_rescale: bool = False,
        space: Space = PLANE,
        scaled: bool = False,
        by_position: bool = False,
    ) -> None:
        super().__init__()

        def norm(channels: int) -> nn.Module:
            return PositionNorm(channels) if by_position else group_norm(channels, channels_per_group)

        self.norm_in = norm(in_channels)
        self.resample = nn.Identity() if resample is None else resample
        self.conv_in = space.conv(in_channels, out_channels)
        self.modulation = None if embedding_width is None else linear(embedding_width, out_channels)
        self.norm_out = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = space.conv(out_channels, out_channels, init_scale=init_scale)
        changes = in_channels != out_channels or resample is not None
        self.shortcut: nn.Module = nn.Identity()
        if changes:
            self.shortcut = space.conv(in_channels, out_channels, 1, init_scale=shortcut_init_scale)
        self.skip_rescale = skip_rescale
        self.scale = linear(embedding_width, out_channels, init_scale=SCALE) if scaled and embedding_width else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.conv_in(self.resample(F.silu(self.norm_in(x))))
        if self.modulation is not None:
            h = h + self.modulation(embedding)[(..., *(None,) * (x.ndim - 2))]
        h = self.norm_out(h)
        if self.scale is not None:
            h = h * (1 + self.scale(embedding))[(..., *(None,) * (x.ndim - 2))]
        h = self.conv_out(self.dropout(F.silu(h)))
        return residual_sum(self.shortcut(self.resample(x)), h, self.skip_rescale)
