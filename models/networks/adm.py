"""ADM, the U-Net of "Diffusion models beat GANs" (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3), and of the code
before it, improved-diffusion (Nichol & Dhariwal 2021, arXiv:2102.09672).

    image -> encoder (halving resolutions) -> bottleneck -> decoder (doubling resolutions) -> image

Blocks are those of `layers.scale_shift`. Every feature map of the encoder is laid beside the decoder's at the same
resolution; positions attend to each other at several resolutions, on both ways, with heads of a fixed width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.basic import conv
from score_sde.models.layers.condition import Kind, Picture, check, laid_beside, part_of
from score_sde.models.layers.embeddings import CosineFeatures, NoiseEmbedding
from score_sde.models.layers.resolutions import Stage
from score_sde.models.layers.scale_shift import Blocks, norm


class ADM(nn.Module):
    """This U-Net has every switch of the published models guided-diffusion and improved-diffusion.

    Call it as `network(x, noise_label)`, with images `x` `(B, in_channels, H, W)` and labels `(B,)` that count in
    steps, or with a condition as `network(x, noise_label, condition)`; it returns `(B, out_channels, H, W)`.

    Args:
        image_size: height and width of the images, or one number for both; multiples of `2^(resolutions - 1)`.
        in_channels: channels of the input.
        out_channels: channels of the output; as many as the input's if left out.
        channels: the unit of widths.
        channel_multipliers: width at each resolution in units of `channels`, from the highest resolution down.
        num_blocks: residual blocks per resolution of the encoder; the decoder has one more.
        attention_resolutions: heights at which blocks are followed by self-attention.
        dropout: probability of dropping an activation.
        num_heads: heads of attention, where `head_width` does not decide; they divide the widths.
        num_heads_up: heads of attention in the decoder, if they are others.
        head_width: width of a head; None for `num_heads` at every width.
        heads_first: the order in which attention makes queries, keys and values; see `layers.attention.SelfAttention`.
        scale_shift: whether blocks are told the time by scale and shift of a norm, or by what is added before it.
        resample_in_blocks: change resolution within residual blocks, or by convolutions between them.
        conditions: what the network is told, by name: numbers, vectors and pictures; see `models.layers.condition`.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int,
        out_channels: int | None = None,
        *,
        channels: int = 128,
        channel_multipliers: Sequence[float] = (1, 2, 2, 2),
        num_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16, 8),
        dropout: float = 0.0,
        num_heads: int = 4,
        num_heads_up: int | None = None,
        head_width: int | None = None,
        heads_first: bool = False,
        scale_shift: bool = True,
        resample_in_blocks: bool = True,
        conditions: Mapping[str, Kind] | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.resample_in_blocks = in_channels, resample_in_blocks
        self.size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.conditions = dict(conditions or {})
        self.pictures = {name: kind for name, kind in self.conditions.items() if isinstance(kind, Picture)}
        self.modulating = {name: kind for name, kind in self.conditions.items() if name not in self.pictures}
        self.embedding = NoiseEmbedding(CosineFeatures(channels), 4 * channels, self.modulating)
        blocks = Blocks(
            4 * channels,
            dropout,
            scale_shift,
            resample_in_blocks,
            num_heads,
            head_width,
            heads_first,
            activation_checkpointing,
        )
        laid = sum(picture.laid for picture in self.pictures.values())
        widths = [int(multiplier * channels) for multiplier in channel_multipliers]
        attends = attending(self.size[0], len(widths), attention_resolutions)
        self.encoder = ADMEncoder(self.size, in_channels + laid, widths, num_blocks, attends, blocks)
        skips, here = list(self.encoder.widths), widths[-1]
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for own, attend in zip(reversed(widths), reversed(attends), strict=True):
            if len(self.decoder):
                self.up.append(blocks.up(here))
            stages = nn.ModuleList()
            for _ in range(num_blocks + 1):
                stages.append(blocks.stage(here + skips.pop(), own, attend, num_heads_up))
                here = own
            self.decoder.append(stages)
        self.norm = norm(here)
        self.output = conv(here, in_channels if out_channels is None else out_channels, init_scale=0.0)

    def shard_units(self) -> list[nn.Module]:
        """List the parts whose weights are gathered at a time where they are divided among processes."""
        return [module for module in self.modules() if isinstance(module, Stage)]

    def forward(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the network's output `(B, out_channels, H, W)`.

        Args:
            x: images, `(B, in_channels, H, W)`.
            noise_label: what the network is told of the time, `(B,)`.
            condition: the condition of as many examples, if the network is told of any.

        Raises:
            UserError: `x` has the wrong number of channels or a size that cannot be halved evenly; the network is not
                told of such a condition, or must be told of one.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(f"this network takes images (B, {self.in_channels}, H, W), not {tuple(x.shape)}")
        check_size(x.shape[2:], len(self.decoder))
        if condition is not None and not self.conditions:
            raise UserError("this network was built without conditions; give it some, or leave the condition out")
        check(self.conditions, condition, len(x), x.shape[2:])
        beside = laid_beside(x, condition, self.pictures)
        embedding = self.embedding(noise_label, part_of(condition, self.modulating))
        *maps, h = self.encoder(torch.cat([x, *beside], dim=1) if beside else x, embedding)
        # The encoder's maps are asked for from the last to the first, by number: compilers take some lists for tuples.
        left = len(maps)
        for depth, stages in enumerate(self.decoder):
            if depth:
                h = self.up[depth - 1](h, embedding)
            assert isinstance(stages, nn.ModuleList)
            for stage in stages:
                left -= 1
                h = stage(torch.cat([h, maps[left]], dim=1), embedding)
        return self.output(F.silu(self.norm(h)))


class ADMEncoder(nn.Module):
    """The encoder and the bottleneck of ADM make feature maps of an image.

    Args:
        size: height and width of the images.
        in_channels: channels of the images, and of what lies beside them.
        widths: the width at each resolution.
        num_blocks: residual blocks per resolution.
        attends: whether there is attention, for each resolution.
        blocks: the blocks.

    Attributes:
        widths: the widths of all feature maps but the bottleneck's, in the order in which they are made.

    Raises:
        UserError: images cannot be halved at every resolution.
    """

    def __init__(
        self,
        size: Sequence[int],
        in_channels: int,
        widths: Sequence[int],
        num_blocks: int,
        attends: Sequence[bool],
        blocks: Blocks,
    ) -> None:
        super().__init__()
        if num_blocks < 1:
            raise UserError(f"num_blocks must be at least 1, not {num_blocks}")
        check_size(size, len(widths))
        here, self.widths = widths[0], [widths[0]]
        self.conv_in = conv(in_channels, here)
        self.stages = nn.ModuleList()
        for depth, (own, attend) in enumerate(zip(widths, attends, strict=True)):
            if depth:
                self.stages.append(blocks.down(here))
                self.widths.append(here)
            for _ in range(num_blocks):
                self.stages.append(blocks.stage(here, own, attend))
                self.widths.append(own)
                here = own
        self.bottleneck = nn.ModuleList([blocks.stage(here, here, True), blocks.stage(here, here)])

    def forward(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """Return all feature maps of images `(B, in_channels, H, W)`, the bottleneck's last."""
        maps = [self.conv_in(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1], embedding))
        h = maps[-1]
        for stage in self.bottleneck:
            h = stage(h, embedding)
        return [*maps, h]


def attending(height: int, count: int, attention_resolutions: Sequence[int]) -> list[bool]:
    """Return whether there is attention at each of so many resolutions, the highest first."""
    return [height // 2**depth in attention_resolutions for depth in range(count)]


def check_size(size: Sequence[int], count: int) -> None:
    """See that images of a size `(H, W)` can be halved evenly at each of so many resolutions.

    Raises:
        UserError: they cannot.
    """
    multiple = 2 ** (count - 1)
    if any(length % multiple for length in size):
        raise UserError(
            f"images of {size[0]} x {size[1]} cannot be halved evenly at every resolution of this network: pad them to "
            f"multiples of {multiple}, or use fewer channel_multipliers"
        )
