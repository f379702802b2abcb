"""ADM's classifier of noisy images: its encoder, and a pool (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from score_sde.common.errors import UserError, choose
from score_sde.models.layers.embeddings import CosineFeatures, NoiseEmbedding
from score_sde.models.layers.pooling import AttentionPool, MeanPool, SpatialPool
from score_sde.models.layers.resolutions import Stage
from score_sde.models.layers.scale_shift import Blocks
from score_sde.models.networks.adm import ADMEncoder, attending

Pool = Literal["adaptive", "attention", "spatial", "spatial_v2"]


class ADMClassifier(nn.Module):
    """ADM's encoder and a pool make numbers of an image.

    Call it as `network(x, noise_label)`, with images `x` `(B, in_channels, H, W)` and labels `(B,)` that count in
    steps; it returns `(B, num_outputs)`.

    Args:
        image_size: height and width of the images, or one number for both; multiples of `2^(resolutions - 1)`.
        in_channels: channels of the input.
        num_outputs: numbers for each image.
        pool: how they are made of feature maps; see `models.layers.pooling`.
        channels: the unit of widths.
        channel_multipliers: width at each resolution in units of `channels`, from the highest resolution down.
        num_blocks: residual blocks per resolution.
        attention_resolutions: heights at which blocks are followed by self-attention.
        dropout: probability of dropping an activation.
        num_heads: heads of attention, where `head_width` does not decide; they divide the widths.
        head_width: width of a head; None for `num_heads` at every width.
        heads_first: the order in which attention makes queries, keys and values; see `layers.attention.SelfAttention`.
        scale_shift: whether blocks are told the time by scale and shift of a norm, or by what is added before it.
        resample_in_blocks: change resolution within residual blocks, or by convolutions between them.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int,
        num_outputs: int,
        *,
        pool: Pool = "attention",
        channels: int = 128,
        channel_multipliers: Sequence[float] = (1, 2, 2, 2),
        num_blocks: int = 2,
        attention_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.0,
        num_heads: int = 4,
        head_width: int | None = None,
        heads_first: bool = False,
        scale_shift: bool = True,
        resample_in_blocks: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        choose("pool", pool, dict.fromkeys(get_args(Pool)))
        self.in_channels, self.num_outputs = in_channels, num_outputs
        self.size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.embedding = NoiseEmbedding(CosineFeatures(channels), 4 * channels)
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
        widths = [int(multiplier * channels) for multiplier in channel_multipliers]
        attends = attending(self.size[0], len(widths), attention_resolutions)
        self.encoder = ADMEncoder(self.size, in_channels, widths, num_blocks, attends, blocks)
        smallest = [length // 2 ** (len(widths) - 1) for length in self.size]
        self.pool: nn.Module
        if pool == "adaptive":
            self.pool = MeanPool(widths[-1], num_outputs)
        elif pool == "attention":
            heads = num_heads if head_width is None else widths[-1] // head_width
            self.pool = AttentionPool(widths[-1], num_outputs, smallest[0] * smallest[1], heads)
        else:
            self.pool = SpatialPool(sum(self.encoder.widths) + widths[-1], num_outputs, pool == "spatial_v2")

    def shard_units(self) -> list[nn.Module]:
        """List the parts whose weights are gathered at a time where they are divided among processes."""
        return [module for module in self.modules() if isinstance(module, Stage)]

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        """Return numbers `(B, num_outputs)` for images `(B, in_channels, H, W)` and labels `(B,)`.

        Raises:
            UserError: `x` has another number of channels or another size.
        """
        if tuple(x.shape[1:]) != (self.in_channels, *self.size):
            wanted = (self.in_channels, *self.size)
            raise UserError(f"this classifier takes images of shape {wanted}, not {tuple(x.shape[1:])}")
        return self.pool(self.encoder(x, self.embedding(noise_label)))
