"""The blocks of ADM: residual ones, told the time by scale and shift of a norm, and attention of many heads.

    h = conv(resample(silu(norm(x))))
    h = (1 + scale) norm(h) + shift,             scale and shift affine in the embedding          (scale_shift)
    h = norm(h + shift)                                                                           (otherwise)
    x <- shortcut(resample(x)) + conv(dropout(silu(h)))

(Nichol & Dhariwal 2021, arXiv:2102.09672, section 3; Dhariwal & Nichol 2021, arXiv:2105.05233, section 3.) Norms
have 32 groups at every width, sums are not rescaled, and the shortcut is the identity wherever the channels allow it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.models.layers.attention import SelfAttention
from score_sde.models.layers.basic import GroupNorm, conv, group_norm, linear
from score_sde.models.layers.resampling import Downsample, DownsampleConv, Upsample, UpsampleConv
from score_sde.models.layers.resolutions import Stage

_EPS = 1e-5


def norm(channels: int) -> GroupNorm:
    """Return the norm of ADM: 32 groups, or as many as divide fewer channels."""
    return group_norm(channels, channels_per_group=1, eps=_EPS)


class ScaleShiftBlock(nn.Module):
    """A residual block makes `(B, out_channels, H', W')` of features `(B, in_channels, H, W)` and an embedding.

    Args:
        embedding_width: size of the embedding `(B, embedding_width)`.
        resample: a layer that changes the resolution of both branches, if given.
        dropout: probability of dropping an activation.
        scale_shift: whether the embedding scales and shifts normalised features; otherwise it shifts them before.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int,
        resample: Downsample | Upsample | None = None,
        dropout: float = 0.0,
        scale_shift: bool = True,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm_in = norm(in_channels)
        self.resample = nn.Identity() if resample is None else resample
        self.conv_in = conv(in_channels, out_channels)
        self.modulation = linear(embedding_width, 2 * out_channels if scale_shift else out_channels)
        self.norm_out = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = conv(out_channels, out_channels, init_scale=0.0)
        alike = in_channels == out_channels
        self.shortcut: nn.Module = nn.Identity() if alike else conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(self.resample(F.silu(self.norm_in(x))))
        told = self.modulation(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        else:
            h = self.norm_out(h + told)
        return self.shortcut(self.resample(x)) + self.conv_out(self.dropout(F.silu(h)))


@dataclass(frozen=True)
class Blocks:
    """The blocks of a network are alike but for their widths, and are made here.

    Attributes:
        embedding_width: size of the embedding.
        dropout: probability of dropping an activation.
        scale_shift: how residual blocks are told the time; see `ScaleShiftBlock`.
        resample_in_blocks: whether resolution changes within a residual block; otherwise a convolution changes it.
        num_heads: heads of attention, where `head_width` does not decide.
        head_width: width of a head; None for `num_heads` of them at every width.
        heads_first: the order in which attention makes queries, keys and values; see `SelfAttention`.
        recompute: recompute activations in the backward pass instead of keeping them.
    """

    embedding_width: int
    dropout: float
    scale_shift: bool
    resample_in_blocks: bool
    num_heads: int
    head_width: int | None
    heads_first: bool
    recompute: bool

    def stage(self, before: int, after: int, attends: bool = False, num_heads: int | None = None) -> Stage:
        """Return a residual block, and attention after it if it `attends`, with `num_heads` instead of the usual ones.

        Raises:
            UserError: heads do not divide the width.
        """
        return Stage(
            self._residual(before, after), self._attention(after, num_heads) if attends else None, self.recompute
        )

    def down(self, width: int) -> nn.Module:
        """Return what halves the resolution."""
        if self.resample_in_blocks:
            return Stage(self._residual(width, width, Downsample()), None, self.recompute)
        return DownsampleConv(width, width, from_first=True)

    def up(self, width: int) -> nn.Module:
        """Return what doubles the resolution."""
        if self.resample_in_blocks:
            return Stage(self._residual(width, width, Upsample()), None, self.recompute)
        return UpsampleConv(width, width)

    def _residual(self, before: int, after: int, resample: Downsample | Upsample | None = None) -> ScaleShiftBlock:
        return ScaleShiftBlock(before, after, self.embedding_width, resample, self.dropout, self.scale_shift)

    def _attention(self, width: int, num_heads: int | None) -> SelfAttention:
        heads = num_heads or self.num_heads
        if self.head_width is not None:
            if width % self.head_width:
                raise UserError(
                    f"heads of width {self.head_width} do not divide a width of {width}: take another head_width"
                )
            heads = width // self.head_width
        if width % heads:
            raise UserError(f"{heads} heads do not divide a width of {width}: take num_heads that do, or a head_width")
        return SelfAttention(width, channels_per_group=1, num_heads=heads, heads_first=self.heads_first, eps=_EPS)
