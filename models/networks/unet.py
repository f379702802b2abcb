"""A U-Net for examples that extend over one, two or three axes: series, pictures and fields, volumes.

    x -> encoder (halving the size) -> features at every resolution -> decoder (doubling it) -> output

Blocks are those of NCSN++ (Song et al. 2021, arXiv:2011.13456, appendix H): residual, resampling within, sums divided
by sqrt(2). Every encoder feature map is concatenated to the decoder's at the same resolution. Examples of any size are
padded to the multiple that halving needs, and the output is cropped to their size again.

The two halves can be called one by one, `decode(encode(x, heard), heard)`, so that features can be changed in between,
as control networks do (`controlnet`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.attention import CrossAttention, SelfAttention
from score_sde.models.layers.basic import with_more_inputs, zeroed
from score_sde.models.layers.condition import (
    Kind,
    Picture,
    Tokens,
    TokensOrNone,
    check,
    heard_kinds,
    laid_beside,
    part_of,
    said,
    scaling,
    texts_of,
)
from score_sde.models.layers.embeddings import NoiseEmbedding, PositionalFeatures
from score_sde.models.layers.fourier import num_features, with_fourier_features
from score_sde.models.layers.pyramids import Head
from score_sde.models.layers.resampling import Downsample, Upsample
from score_sde.models.layers.residual import ResidualBlock
from score_sde.models.layers.resolutions import Stage
from score_sde.models.layers.space import Space

_DIMS = {1: "series (B, {}, L)", 2: "pictures or fields (B, {}, H, W)", 3: "volumes (B, {}, D, H, W)"}


class Heard(NamedTuple):
    """What a network has heard of the time and the condition.

    Attributes:
        embedding: what modulates every block, `(B, width)`.
        tokens: by name, tokens that positions attend to, `(B, N, width)`.
        pictures: pictures that are laid beside the states, `(B, C, *size)`.
    """

    embedding: Tensor
    tokens: Mapping[str, Tensor]
    pictures: Sequence[Tensor]


class Features(NamedTuple):
    """What the encoder makes of examples.

    Attributes:
        maps: feature maps `(B, channels, *size)`, in the order in which they are made; the last is the bottleneck's.
        size: the size of the examples, to which the output is cropped.
    """

    maps: tuple[Tensor, ...]
    size: tuple[int, ...]

    def plus(self, added: Sequence[Tensor]) -> Features:
        """Return features to which something is added, map by map; nothing if there is nothing to add."""
        maps = tuple(own + more for own, more in zip(self.maps, added, strict=True)) if added else self.maps
        return Features(maps, self.size)


class UNet(nn.Module):
    """This U-Net takes examples of any size along one, two or three axes.

    Call it as `network(x, noise_label)`, with states `x` `(B, in_channels, *size)` and labels `(B,)` that count in
    steps, or with a condition as `network(x, noise_label, condition)`; it returns `(B, out_channels, *size)`. Its
    output starts at zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; as many as the input's if left out.
        dims: the number of axes, 1, 2 or 3.
        channels: width at the highest resolution.
        channel_multipliers: width at each resolution in units of `channels`, from the highest resolution down.
        num_blocks: residual blocks per resolution of the encoder; the decoder has one more.
        attention_depths: resolutions with attention, from 0, the highest; or from -1, the lowest, with the bottleneck.
        dropout: probability of dropping an activation.
        periodic: whether each axis closes on itself; none does if left empty. (Where a size is no multiple of
            `size_multiple`, what is padded is the beginning again.)
        conditions: what the network is told, by name: a whole number K for one of 0 … K - 1, a `Vector`, `Tokens`
            (which need some attention), or a `Picture`; see `models.layers.condition`.
        input_frequencies: exponents of Fourier features of the input, laid beside it; see `models.layers.fourier`.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.

    Attributes:
        size_multiple: sizes that are multiples of this need no padding.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        dims: int = 2,
        channels: int = 64,
        channel_multipliers: Sequence[int] = (1, 2, 2),
        num_blocks: int = 2,
        attention_depths: Sequence[int] = (-1,),
        dropout: float = 0.0,
        periodic: Sequence[bool] = (),
        conditions: Mapping[str, Kind] | None = None,
        input_frequencies: Sequence[int] = (),
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depth, self.conditions = len(channel_multipliers), dict(conditions or {})
        heard = heard_kinds(self.conditions)
        attends = _attends(attention_depths, depth)
        tokens = {name: kind for name, kind in heard.items() if isinstance(kind, Tokens)}
        if dims not in _DIMS:
            raise UserError(f"a UNet takes examples of 1, 2 or 3 axes, not {dims}")
        if num_blocks < 1 or depth < 1:
            raise UserError(f"a UNet has one resolution and one block or more, not {depth} and {num_blocks}")
        if periodic and (len(periodic) != dims or not all(isinstance(closed, bool) for closed in periodic)):
            raise UserError(f"periodic is True or False for each of the {dims} axes, not {tuple(periodic)}")
        if tokens and not any(attends):
            raise UserError(f"{', '.join(tokens)}: tokens are attended to, and attention_depths is empty")
        self.in_channels, self.input_frequencies = in_channels, tuple(input_frequencies)
        self.size_multiple = 2 ** (depth - 1)
        self.space = space = Space(tuple(periodic) or (False,) * dims)
        self.pictures = {name: kind for name, kind in self.conditions.items() if isinstance(kind, Picture)}
        self.modulating = [name for name in heard if name not in {*tokens, *self.pictures}]
        self.texts = texts_of(self.conditions)
        self.tokens = nn.ModuleDict({name: TokensOrNone(kind.width) for name, kind in tokens.items()})
        width, vectors = 4 * channels, {name: heard[name] for name in self.modulating}
        self.embedding = NoiseEmbedding(PositionalFeatures(channels), width, vectors)

        def stage(
            before: int, after: int, resample: Downsample | Upsample | None = None, attend: bool = False
        ) -> Stage:
            residual = ResidualBlock(
                before,
                after,
                width,
                resample=resample,
                dropout=dropout,
                skip_rescale=True,
                space=space,
                scaled=bool(scaling(heard)),
            )
            if not attend:
                return Stage(residual, None, activation_checkpointing)
            to_tokens = {name: CrossAttention(after, kind.width, skip_rescale=True) for name, kind in tokens.items()}
            return Stage(residual, SelfAttention(after, skip_rescale=True), activation_checkpointing, to_tokens)

        # On the encoder's way down, `skips` notes the widths of the feature maps the decoder will ask for.
        widths = [channels * multiplier for multiplier in channel_multipliers]
        laid_beside = sum(picture.laid for picture in self.pictures.values())
        self.conv_in = space.conv(num_features(in_channels, input_frequencies) + laid_beside, channels)
        here, skips = channels, [channels]
        self.encoder = nn.ModuleList()
        for own, attend in zip(widths, attends, strict=True):
            if len(skips) > 1:
                self.encoder.append(stage(here, here, Downsample(space=space)))
                skips.append(here)
            for _ in range(num_blocks):
                self.encoder.append(stage(here, own, attend=attend))
                skips.append(own)
                here = own
        self.bottleneck = nn.ModuleList([stage(here, here, attend=attends[-1]), stage(here, here)])
        self.map_widths = (*skips, here)

        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for own, attend in zip(reversed(widths), reversed(attends), strict=True):
            if len(self.decoder):
                self.up.append(stage(here, here, Upsample()))
            blocks = nn.ModuleList()
            for remaining in reversed(range(num_blocks + 1)):
                blocks.append(stage(here + skips.pop(), own, attend=attend and remaining == 0))
                here = own
            self.decoder.append(blocks)
        self.head = Head(here, in_channels if out_channels is None else out_channels, init_scale=0.0, space=space)

    def shard_units(self) -> list[nn.Module]:
        """List the parts whose weights are gathered at a time where they are divided among processes."""
        return [module for module in self.modules() if isinstance(module, Stage)]

    def forward(
        self, x: Tensor, noise_label: Tensor, condition: Condition | None = None, added: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the network's output `(B, out_channels, *size)`.

        Args:
            x: states, `(B, in_channels, *size)`.
            noise_label: what the network is told of the time, `(B,)`.
            condition: the condition of as many examples, if the network is told of any.
            added: what is added to each feature map of the encoder, like `features`; nothing, if left out.

        Raises:
            UserError: `x` has another number of axes or channels; the network is not told of such a condition.
        """
        heard = self.hear(x, noise_label, condition)
        return self.decode(self.encode(x, heard).plus(added), heard)

    def features(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        """Return the feature maps of the encoder; arguments and errors are those of a call."""
        return self.encode(x, self.hear(x, noise_label, condition)).maps

    def copy_of_encoder(self, told: Mapping[str, Picture]) -> UNet:
        """Return a copy that has `features` alone, and is told of these pictures, too, at first with zero weights."""
        twin = copy.deepcopy(self)
        del twin.decoder, twin.up, twin.head
        twin.conv_in = with_more_inputs(twin.conv_in, sum(picture.laid for picture in told.values()))
        twin.conditions, twin.pictures = {**self.conditions, **told}, {**self.pictures, **told}
        return twin

    def zero_maps(self) -> nn.ModuleList:
        """Return convolutions over single positions of each of the `features`, which are zero at first."""
        return nn.ModuleList(zeroed(self.space.conv(width, width, kernel_size=1)) for width in self.map_widths)

    def hear(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> Heard:
        """Return what blocks are told; arguments and errors are those of a call."""
        if x.ndim != 2 + self.space.dims or x.shape[1] != self.in_channels:
            wanted = _DIMS[self.space.dims].format(self.in_channels)
            raise UserError(f"this network takes {wanted}, not {tuple(x.shape)}")
        if condition is not None and not self.conditions:
            raise UserError("this network was built without conditions; give it some, or leave the condition out")
        check(self.conditions, condition, len(x), x.shape[2:])
        condition = self.texts(condition)
        tokens = {name: ear(*said(condition, name), len(x)) for name, ear in self.tokens.items()}
        embedding = self.embedding(noise_label, part_of(condition, self.modulating))
        return Heard(embedding, tokens, laid_beside(x, condition, self.pictures))

    def encode(self, x: Tensor, heard: Heard) -> Features:
        """Return the features of states `(B, in_channels, *size)`."""
        told = with_fourier_features(x, self.input_frequencies)
        maps = [self.conv_in(self._pad(torch.cat([told, *heard.pictures], dim=1)))]
        for block in self.encoder:
            maps.append(block(maps[-1], heard.embedding, heard.tokens))
        h = maps[-1]
        for block in self.bottleneck:
            h = block(h, heard.embedding, heard.tokens)
        return Features((*maps, h), tuple(x.shape[2:]))

    def decode(self, features: Features, heard: Heard) -> Tensor:
        """Return the output that is made of features, `(B, out_channels, *size)`."""
        # The encoder's maps are asked for from the last to the first, by number: compilers take some lists for tuples.
        left, h = len(features.maps) - 1, features.maps[-1]
        for depth, blocks in enumerate(self.decoder):
            if depth:
                h = self.up[depth - 1](h, heard.embedding, heard.tokens)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                left -= 1
                h = block(torch.cat([h, features.maps[left]], dim=1), heard.embedding, heard.tokens)
        return self._crop(self.head(h), features.size)

    def _pad(self, x: Tensor) -> Tensor:
        """Pad to a multiple of `size_multiple`: with zeros on both sides, or, along periodic axes, the beginning."""
        for axis, closed in enumerate(self.space.periodic, start=2):
            missing = -x.shape[axis] % self.size_multiple
            if missing and closed:
                again = -(-missing // x.shape[axis])
                x = torch.cat([x, torch.cat([x] * again, axis).narrow(axis, 0, missing)], axis)
            elif missing:
                x = F.pad(x, (0, 0) * (x.ndim - 1 - axis) + (missing // 2, missing - missing // 2))
        return x

    def _crop(self, output: Tensor, size: tuple[int, ...]) -> Tensor:
        """Crop an output to the size that its input had before it was padded."""
        for axis, (closed, length) in enumerate(zip(self.space.periodic, size, strict=True), start=2):
            missing = output.shape[axis] - length
            output = output.narrow(axis, 0 if closed else missing // 2, length) if missing else output
        return output


def _attends(depths: Sequence[int], count: int) -> list[bool]:
    """Return whether each of `count` resolutions has attention."""
    outside = [str(depth) for depth in depths if not -count <= depth < count]
    if outside:
        raise UserError(f"attention_depths: there is no resolution {', '.join(outside)} among {count}, from 0")
    return [index in depths or index - count in depths for index in range(count)]
