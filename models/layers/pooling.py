r"""How a classifier makes numbers of feature maps: the pools of ADM's (Dhariwal & Nichol 2021, arXiv:2105.05233).

    adaptive      the mean over positions, then an affine map
    attention     the mean over positions attends to them and itself; places have vectors of their own
    spatial       means over positions of all maps, from the first on, then two affine maps with a ReLU between them
    spatial_v2    the same, with a norm and SiLU between them

The first two see the last map alone, which is normalised. Attention is that of CLIP (Radford et al. 2021,
arXiv:2103.00020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.models.layers.attention import attention
from score_sde.models.layers.basic import linear
from score_sde.models.layers.scale_shift import norm
from score_sde.models.layers.transformer import heads, joined

# Features between the affine maps of the spatial pools.
_BETWEEN = 2048


class MeanPool(nn.Module):
    """The mean of the last of the maps, `(B, channels, H, W)`, is mapped to `(B, num_outputs)`."""

    def __init__(self, channels: int, num_outputs: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.output = linear(channels, num_outputs, init_scale=0.0)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.output(F.silu(self.norm(maps[-1])).mean((2, 3)))


class AttentionPool(nn.Module):
    """The mean of the last of the maps, `(B, channels, H, W)`, attends to it; the answer is `(B, num_outputs)`.

    Args:
        channels: channels of the map.
        num_outputs: numbers for each image.
        num_positions: H W.
        num_heads: number of heads, which divide the channels.
    """

    def __init__(self, channels: int, num_outputs: int, num_positions: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = norm(channels)
        self.places = nn.Parameter(torch.randn(channels, num_positions + 1) / channels**0.5)
        self.query_key_value = linear(channels, 3 * channels)
        self.output = linear(channels, num_outputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        positions = F.silu(self.norm(maps[-1])).flatten(2)
        positions = torch.cat([positions.mean(-1, keepdim=True), positions], dim=-1) + self.places.to(positions.dtype)
        query, key, value = (heads(part, self.num_heads) for part in self.query_key_value(positions.mT).chunk(3, -1))
        return self.output(joined(attention(query[:, :, :1], key, value))[:, 0])


class SpatialPool(nn.Module):
    """The means of all maps, of so many channels together, are mapped to `(B, num_outputs)`, normalised or not."""

    def __init__(self, channels: int, num_outputs: int, normalised: bool) -> None:
        super().__init__()
        self.hidden = linear(channels, _BETWEEN)
        self.norm = norm(_BETWEEN) if normalised else None
        self.output = linear(_BETWEEN, num_outputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        h = self.hidden(torch.cat([features.mean((2, 3)) for features in maps], dim=1))
        return self.output(F.relu(h) if self.norm is None else F.silu(self.norm(h)))
