r"""A transformer on patches, told the time and the condition by its norms: DiT (Peebles & Xie 2022, arXiv:2212.09748).

    x -> patches, each an affine map of its numbers, plus where it lies -> blocks -> affine map of each -> output

Blocks are those of `layers.transformer`. Examples extend over any number of axes, and are as long along each as they
are: a series is a sequence of patches, a volume one of cubes. They are padded to whole patches, and the output cropped.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.basic import linear, with_more_inputs
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
    texts_of,
)
from score_sde.models.layers.embeddings import CosineFeatures, NoiseEmbedding
from score_sde.models.layers.fourier import num_features, with_fourier_features
from score_sde.models.layers.patches import from_patches, grid_of, places, to_patches
from score_sde.models.layers.transformer import TransformerBlock, modulated, plain_norm, zero_linear

NUM_TIME_FEATURES = 256


class DiT(nn.Module):
    """This transformer takes examples of one size, along any number of axes.

    Call it as `network(x, noise_label)`, with states `x` `(B, in_channels, *size)` and labels `(B,)` that count in
    steps, or with a condition as `network(x, noise_label, condition)`; it returns `(B, out_channels, *size)`. Its
    output is zero at first.

    Args:
        size: the size of examples along each axis; one number for a square.
        in_channels: channels of the input.
        out_channels: channels of the output; as many as the input's if left out.
        width: number of features of a patch.
        num_blocks: number of blocks.
        num_heads: heads of attention, which divide the width.
        patch_size: positions of a patch along each axis.
        causal: whether a patch is told of none after it, row by row, the last axis fastest.
        own_embeddings: whether each block hears the time and the condition by an embedding of its own, as in the
            library diffusers; otherwise there is one for all.
        conditions: what the network is told, by name: a whole number K for one of 0 … K - 1, a `Vector`, `Tokens`, or a
            `Picture`; see `models.layers.condition`.
        input_frequencies: exponents of Fourier features of the input, laid beside it; see `models.layers.fourier`.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        in_channels: int,
        out_channels: int | None = None,
        *,
        width: int = 384,
        num_blocks: int = 12,
        num_heads: int = 6,
        patch_size: int = 2,
        causal: bool = False,
        own_embeddings: bool = False,
        conditions: Mapping[str, Kind] | None = None,
        input_frequencies: Sequence[int] = (),
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise UserError(f"{num_heads} heads do not divide a width of {width}: take num_heads that do")
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.in_channels, self.patch_size = in_channels, patch_size
        self.input_frequencies = tuple(input_frequencies)
        self.conditions = dict(conditions or {})
        self.pictures = {name: kind for name, kind in self.conditions.items() if isinstance(kind, Picture)}
        heard = heard_kinds(self.conditions)
        tokens = {name: kind.width for name, kind in heard.items() if isinstance(kind, Tokens)}
        vectors = {name: kind for name, kind in heard.items() if name not in {*self.pictures, *tokens}}
        self.texts = texts_of(self.conditions)
        self.modulating = list(vectors)
        self.tokens = nn.ModuleDict({name: TokensOrNone(token_width) for name, token_width in tokens.items()})
        self.embeddings = nn.ModuleList(
            NoiseEmbedding(CosineFeatures(NUM_TIME_FEATURES), width, vectors)
            for _ in range(num_blocks if own_embeddings else 1)
        )
        laid = sum(picture.laid for picture in self.pictures.values())
        numbers = patch_size ** len(self.size)
        self.input = linear((num_features(in_channels, input_frequencies) + laid) * numbers, width)
        self.places: Tensor
        self.register_buffer("places", places(grid_of(self.size, patch_size), width).float(), persistent=False)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads, tokens, causal, activation_checkpointing) for _ in range(num_blocks)
        )
        self.norm = plain_norm(width)
        self.modulation = zero_linear(width, 2 * width)
        self.output = zero_linear(width, numbers * (in_channels if out_channels is None else out_channels))

    def shard_units(self) -> list[nn.Module]:
        """List the parts whose weights are gathered at a time where they are divided among processes."""
        return list(self.blocks)

    def forward(
        self, x: Tensor, noise_label: Tensor, condition: Condition | None = None, added: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the network's output `(B, out_channels, *size)`.

        Args:
            x: states, `(B, in_channels, *size)`.
            noise_label: what the network is told of the time, `(B,)`.
            condition: the condition of as many examples, if the network is told of any.
            added: what is added to what each of the first blocks makes of the patches, as many as there are.

        Raises:
            UserError: `x` has another shape; the network is not told of such a condition.
        """
        h, told, tokens = self._begin(x, noise_label, condition)
        for index, block in enumerate(self.blocks):
            h = block(h, told[index % len(told)], tokens)
            h = h + added[index] if index < len(added) else h
        shift, scale = self.modulation(told[0])[:, None].chunk(2, dim=-1)
        return from_patches(self.output(modulated(self.norm(h), shift, scale)), self.size, self.patch_size)

    def features(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        """Return what each block makes of the patches, `(B, N, width)`; arguments and errors are those of a call."""
        h, told, tokens = self._begin(x, noise_label, condition)
        made = []
        for index, block in enumerate(self.blocks):
            h = block(h, told[index % len(told)], tokens)
            made.append(h)
        return tuple(made)

    def copy_of_encoder(self, told: Mapping[str, Picture]) -> DiT:
        """Return a copy of the first half of the blocks that has `features` alone, and is told of these pictures, too,
        at first with zero weights.
        """
        twin: Any = copy.deepcopy(self)
        del twin.norm, twin.modulation, twin.output
        twin.blocks = twin.blocks[: self._half]
        twin.embeddings = twin.embeddings[: self._half]
        more = sum(picture.laid for picture in told.values()) * self.patch_size ** len(self.size)
        twin.input = with_more_inputs(twin.input, more)
        twin.conditions, twin.pictures = {**self.conditions, **told}, {**self.pictures, **told}
        return twin

    def zero_maps(self) -> nn.ModuleList:
        """Return affine maps of the features of the first half of the blocks, which are zero at first."""
        width = self.input.out_features
        return nn.ModuleList(zero_linear(width, width) for _ in range(self._half))

    @property
    def _half(self) -> int:
        return -(-len(self.blocks) // 2)

    def _begin(
        self, x: Tensor, noise_label: Tensor, condition: Condition | None
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """Return the patches, what blocks are told of the time and the condition, and the tokens by name."""
        self._check(x, condition)
        condition = self.texts(condition)
        heard = part_of(condition, self.modulating)
        told = [embedding(noise_label, heard) for embedding in self.embeddings]
        tokens = {name: ear(*said(condition, name), len(x)) for name, ear in self.tokens.items()}
        beside = laid_beside(x, condition, self.pictures)
        state = with_fourier_features(x, self.input_frequencies)
        patches = to_patches(torch.cat([state, *beside], dim=1) if beside else state, self.patch_size)
        return self.input(patches) + self.places, told, tokens

    def _check(self, x: Tensor, condition: Condition | None) -> None:
        wanted = (self.in_channels, *self.size)
        if tuple(x.shape[1:]) != wanted:
            raise UserError(f"this network takes examples of shape {wanted}, not {tuple(x.shape[1:])}")
        if condition is not None and not self.conditions:
            raise UserError("this network was built without conditions; give it some, or leave the condition out")
        check(self.conditions, condition, len(x), x.shape[2:])
