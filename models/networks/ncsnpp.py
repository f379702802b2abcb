"""NCSN++ and its relatives: the U-Nets of the Score-SDE paper (Song et al. 2021, arXiv:2011.13456, section 4.1 and
appendix H).

    image -> encoder (halving resolutions) -> bottleneck -> decoder (doubling resolutions) -> image

Every encoder feature map is concatenated to the decoder's at the same depth. On the way the noise label modulates each
residual block; the input image may be shown again at every resolution (`progressive_input`), and the output may be a
sum over resolutions (`progressive`). DDPM++ is NCSN++ without FIR filters, Fourier features and pyramids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, choose
from score_sde.models.layers.attention import SelfAttention
from score_sde.models.layers.basic import conv
from score_sde.models.layers.condition import Kind, Picture, check, laid_beside, part_of, scaling
from score_sde.models.layers.embeddings import FourierFeatures, NoiseEmbedding, PositionalFeatures
from score_sde.models.layers.fourier import num_features, with_fourier_features
from score_sde.models.layers.pyramids import (
    Head,
    InputResidual,
    InputSkip,
    OutputResidual,
    OutputResidualStart,
    OutputSkip,
)
from score_sde.models.layers.resampling import Downsample, DownsampleConv, Upsample, UpsampleConv
from score_sde.models.layers.residual import ResidualBlock
from score_sde.models.layers.resolutions import DecoderResolution, EncoderResolution, OutputPyramid, Stage

Embedding = Literal["positional", "fourier"]
Block = Literal["biggan", "ddpm"]
Progressive = Literal["none", "output_skip", "residual"]
ProgressiveInput = Literal["none", "input_skip", "residual"]
CombineMethod = Literal["sum", "cat"]


class NCSNpp(nn.Module):
    """The noise-conditional U-Net NCSN++ has every switch of the published configurations.

    Call it as `network(x, noise_label)`, with images `x` `(B, in_channels, H, W)` and labels `(B,)`, or with a
    condition as `network(x, noise_label, condition)`; it returns `(B, out_channels, H, W)`. With Fourier embeddings a
    label is the noise's standard deviation sigma, with positional ones a time in steps (999 t, or a rung of a ladder).

    Args:
        image_size: height and width of the images, or one number for both; multiples of `2^(resolutions - 1)`.
        in_channels: channels of the input.
        out_channels: channels of the output; as many as the input's if left out.
        channels: width at the highest resolution (`nf` in the paper's configurations).
        channel_multipliers: width at each resolution in units of `channels`, from the highest resolution down.
        num_blocks: residual blocks per resolution of the encoder; the decoder has one more.
        attention_resolutions: heights at which blocks are followed by self-attention.
        dropout: probability of dropping an activation.
        embedding: how the noise label is embedded.
        fourier_scale: standard deviation of the Fourier frequencies.
        block: `biggan` changes resolution inside residual blocks, `ddpm` between them.
        fir: filter with `fir_kernel` when changing resolution.
        resample_with_conv: with `ddpm` blocks, convolve when changing resolution.
        skip_rescale: divide sums of two branches by sqrt(2).
        progressive: kind of output pyramid.
        progressive_input: kind of input pyramid.
        combine: how an `input_skip` pyramid joins the features.
        time_conditional: whether blocks are told the time at all.
        init_scale: scale of the initial weights of layers that end a branch; 0 makes every block start as the identity.
        conditions: what the network is told, by name: numbers, vectors and pictures; see `models.layers.condition`.
        centered: whether images come in [-1, 1]; if not, they come in [0, 1] and are centred first.
        scale_by_sigma: divide the output by sigma: the label itself for Fourier embeddings; for positional ones
            `sigmas` at the label (rounded down).
        sigmas: standard deviations of the noise `(N,)` in the order of the labels, for `scale_by_sigma` with a
            positional embedding.
        channels_per_group: least number of channels in a GroupNorm group.
        input_frequencies: exponents of Fourier features of the input, laid beside it; see `models.layers.fourier`.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        UserError: arguments that do not fit together.
    """

    sigmas: Tensor | None

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int,
        out_channels: int | None = None,
        *,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 4,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        embedding: Embedding = "positional",
        fourier_scale: float = 16.0,
        block: Block = "biggan",
        fir: bool = False,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        resample_with_conv: bool = True,
        skip_rescale: bool = True,
        progressive: Progressive = "none",
        progressive_input: ProgressiveInput = "none",
        combine: CombineMethod = "sum",
        time_conditional: bool = True,
        init_scale: float = 0.0,
        conditions: Mapping[str, Kind] | None = None,
        centered: bool = True,
        scale_by_sigma: bool = False,
        sigmas: Sequence[float] | Tensor | None = None,
        channels_per_group: int = 4,
        input_frequencies: Sequence[int] = (),
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        choose("embedding", embedding, dict.fromkeys(get_args(Embedding)))
        choose("block", block, dict.fromkeys(get_args(Block)))
        choose("progressive", progressive, dict.fromkeys(get_args(Progressive)))
        choose("progressive_input", progressive_input, dict.fromkeys(get_args(ProgressiveInput)))
        choose("combine", combine, dict.fromkeys(get_args(CombineMethod)))
        if num_blocks < 1:
            raise UserError(f"num_blocks must be at least 1, not {num_blocks}")
        if conditions and not time_conditional:
            raise UserError("a condition joins the embedding of time: conditions need time_conditional")
        if scale_by_sigma and embedding == "positional" and sigmas is None:
            raise UserError(
                "scale_by_sigma with a positional embedding needs the table of sigmas that labels point into"
            )

        self.in_channels, self.input_frequencies = in_channels, tuple(input_frequencies)
        self.out_channels = in_channels if out_channels is None else out_channels
        self.size_multiple = 2 ** (len(channel_multipliers) - 1)
        self.centered = centered
        self.scale_by_sigma = scale_by_sigma
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._check_size(height, width)
        table = sigmas if scale_by_sigma and embedding == "positional" else None
        self.register_buffer(
            "sigmas", None if table is None else torch.as_tensor(table, dtype=torch.get_default_dtype())
        )

        features = FourierFeatures(channels, fourier_scale) if embedding == "fourier" else PositionalFeatures(channels)
        self.conditions = dict(conditions or {})
        self.pictures = {name: kind for name, kind in self.conditions.items() if isinstance(kind, Picture)}
        self.modulating = {name: kind for name, kind in self.conditions.items() if name not in self.pictures}
        self.embedding = NoiseEmbedding(features, 4 * channels, self.modulating) if time_conditional else None

        kernel = fir_kernel if fir else None
        attends = [height // 2**depth in attention_resolutions for depth in range(len(channel_multipliers))]

        def stage(
            in_width: int, out_width: int, resample: Downsample | Upsample | None = None, attend: bool = False
        ) -> Stage:
            residual = ResidualBlock(
                in_width,
                out_width,
                4 * channels if time_conditional else None,
                resample=resample,
                dropout=dropout,
                channels_per_group=channels_per_group,
                init_scale=init_scale,
                shortcut_init_scale=1.0 if block == "biggan" else 0.1,
                skip_rescale=skip_rescale,
                scaled=bool(scaling(self.modulating)),
            )
            attention = None
            if attend:
                attention = SelfAttention(
                    out_width, channels_per_group=channels_per_group, init_scale=init_scale, skip_rescale=skip_rescale
                )
            return Stage(residual, attention, activation_checkpointing)

        def step_down(width: int) -> nn.Module:
            if block == "biggan":
                return stage(width, width, Downsample(kernel))
            return DownsampleConv(width, width, kernel) if resample_with_conv else Downsample(kernel)

        def step_up(width: int) -> nn.Module:
            if block == "biggan":
                return stage(width, width, Upsample(kernel))
            return UpsampleConv(width, width, kernel) if resample_with_conv else Upsample(kernel)

        def input_pyramid(pyramid_width: int, width: int) -> InputSkip | InputResidual | None:
            if progressive_input == "input_skip":
                return InputSkip(in_channels, width, combine, kernel)
            if progressive_input == "residual":
                return InputResidual(pyramid_width, width, skip_rescale, kernel)
            return None

        def output_pyramid(pyramid_width: int | None, width: int) -> OutputPyramid | None:
            if progressive == "output_skip":
                return OutputSkip(Head(width, self.out_channels, channels_per_group, init_scale), kernel)
            if progressive == "none":
                return None
            if pyramid_width is None:
                return OutputResidualStart(Head(width, width, channels_per_group))
            return OutputResidual(pyramid_width, width, skip_rescale, kernel)

        # On the encoder's way down, `skips` notes the widths of the feature maps the decoder will ask for.
        beside = sum(picture.laid for picture in self.pictures.values())
        self.conv_in = conv(num_features(in_channels, input_frequencies) + beside, channels)
        here, skips, pyramid = channels, [channels], in_channels
        self.encoder = nn.ModuleList()
        for depth, multiplier in enumerate(channel_multipliers):
            blocks = nn.ModuleList()
            for _ in range(num_blocks):
                blocks.append(stage(here, channels * multiplier, attend=attends[depth]))
                here = channels * multiplier
                skips.append(here)
            if depth == len(channel_multipliers) - 1:
                self.encoder.append(EncoderResolution(blocks, None, None))
                break
            down, inject = step_down(here), input_pyramid(pyramid, here)
            if inject is not None:
                here = pyramid = inject.out_channels
            skips.append(here)
            self.encoder.append(EncoderResolution(blocks, down, inject))

        self.bottleneck = nn.ModuleList([stage(here, here, attend=True), stage(here, here)])

        self.decoder = nn.ModuleList()
        output_width = None
        for depth, multiplier in reversed(list(enumerate(channel_multipliers))):
            blocks = nn.ModuleList()
            for remaining in reversed(range(num_blocks + 1)):
                attend = attends[depth] and remaining == 0
                blocks.append(stage(here + skips.pop(), channels * multiplier, attend=attend))
                here = channels * multiplier
            emit = output_pyramid(output_width, here)
            output_width = here
            self.decoder.append(DecoderResolution(blocks, emit, step_up(here) if depth > 0 else None))

        # An output_skip pyramid is the output already.
        self.head = None
        if progressive != "output_skip":
            self.head = Head(here, self.out_channels, channels_per_group, init_scale)

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
                told of such a condition.
        """
        self._check_input(x)
        if condition is not None and not self.conditions:
            raise UserError("this network was built without conditions; give it some, or leave the condition out")
        check(self.conditions, condition, len(x), x.shape[2:])
        heard = part_of(condition, self.modulating)
        embedding = None if self.embedding is None else self.embedding(noise_label, heard)
        image = x if self.centered else 2 * x - 1

        beside = laid_beside(x, condition, self.pictures)
        told = with_fourier_features(image, self.input_frequencies)
        h, pyramid = self.conv_in(torch.cat([told, *beside], dim=1) if beside else told), image
        skips = [h]
        for resolution in self.encoder:
            features, pyramid = resolution(h, pyramid, embedding)
            skips += features
            h = features[-1]

        for block in self.bottleneck:
            h = block(h, embedding)

        output: Any = None
        for resolution in self.decoder:
            h, output = resolution(h, skips, output, embedding)

        if self.head is not None:
            output = self.head(h)
        return output / self._sigma(noise_label, output) if self.scale_by_sigma else output

    def _sigma(self, noise_label: Tensor, like: Tensor) -> Tensor:
        """Return the sigma that labels `(B,)` stand for, in float32 at least, to divide `like` `(B, C, H, W)`."""
        sigma = noise_label if self.sigmas is None else self.sigmas[noise_label.long()]
        return sigma.to(torch.promote_types(like.dtype, torch.float32))[:, None, None, None]

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(f"this network takes images (B, {self.in_channels}, H, W), not {tuple(x.shape)}")
        self._check_size(*x.shape[2:])

    def _check_size(self, height: int, width: int) -> None:
        multiple = self.size_multiple
        if height % multiple or width % multiple:
            raise UserError(
                f"images of {height} x {width} cannot be halved evenly at every resolution of this network: "
                f"pad them to multiples of {multiple}, or use fewer channel_multipliers"
            )
