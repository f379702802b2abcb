"""A residual network for vectors, told the time by sinusoidal features; pictures are laid beside the vectors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.basic import SCALE, linear
from score_sde.models.layers.condition import (
    Kind,
    Picture,
    VectorsBeside,
    check,
    flattened,
    heard_kinds,
    laid_beside,
    part_of,
    scaling,
    texts_of,
)
from score_sde.models.layers.embeddings import NoiseEmbedding, PositionalFeatures
from score_sde.models.layers.text import EmbeddedText, Text

_NUM_TIME_FEATURES = 64


class MLP(nn.Module):
    """In this residual multilayer perceptron the time shifts the features of every block.

    Call it as `network(x, noise_label)`, with states `x` `(B, *dims)`, flattened within, and labels `(B,)` that count
    in steps ("log_snr" or "time" of `ScoreModel`), or with a condition as `network(x, noise_label, condition)`. Its
    output starts at zero.

    Args:
        dimension: numbers in one example.
        width: features of the hidden layers.
        num_blocks: residual blocks, of two layers each.
        conditions: what the network is told, by name: numbers and vectors (arrays that are flattened within), see
            `ConditionVectors`; a `Picture`, of as many channels as it has numbers; or a `Text`, heard by its vector.
    """

    def __init__(
        self, dimension: int, width: int = 128, num_blocks: int = 3, conditions: Mapping[str, Kind] | None = None
    ) -> None:
        super().__init__()
        self.told = told = dict(conditions or {})
        self.pictures = {name: kind for name, kind in told.items() if isinstance(kind, Picture)}
        self.texts = texts_of(told)
        # There are no positions that could attend to the tokens of a text.
        self.tokens = [name for name, kind in told.items() if isinstance(kind, Text | EmbeddedText)]
        heard = {name: kind for name, kind in heard_kinds(told).items() if name not in self.tokens}
        self.modulating = {name: kind for name, kind in heard.items() if name not in self.pictures}
        self.embedding = NoiseEmbedding(PositionalFeatures(_NUM_TIME_FEATURES), width, self.modulating)
        # Weights of variance 1 / dimension give features of unit variance. Smaller ones hide the state behind the time
        # for thousands of steps of training.
        self.input = linear(dimension, width, init_scale=(dimension + width) / (2 * dimension))
        beside = scaling(self.modulating)
        self.blocks = nn.ModuleList(Block(width, scaled=bool(beside)) for _ in range(num_blocks))
        self.output = linear(width, dimension, init_scale=0.0)
        self.beside = VectorsBeside(beside, width) if beside else None
        laid = sum(picture.laid for picture in self.pictures.values())
        self.laid = linear(laid, width, init_scale=(laid + width) / (2 * laid)) if laid else None

    def shard_units(self) -> list[nn.Module]:
        """List the parts whose weights are gathered at a time where they are divided among processes."""
        return list(self.blocks)

    def forward(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> Tensor:
        if x.flatten(1).shape[1] != self.input.in_features:
            raise UserError(f"this network takes {self.input.in_features} numbers an example, not {tuple(x.shape)}")
        condition = self._heard(condition)
        modulating = condition
        if self.laid is not None and condition is not None:
            modulating = part_of(condition, [name for name in condition.values if name not in self.pictures])
        told = None if modulating is None else flattened(modulating)
        embedding = self.embedding(noise_label, told)
        h = self.input(x.flatten(1))
        if self.beside is not None:
            h = h + self.beside(told, len(x))
        if self.laid is not None:
            h = h + self.laid(self._laid_beside(x, condition))
        for block in self.blocks:
            h = block(h, embedding)
        return self.output(F.silu(h)).reshape(x.shape)

    def _heard(self, condition: Condition | None) -> Condition | None:
        """Return the condition with the vectors of texts in the place of these."""
        if not self.tokens or condition is None:
            return condition
        check(self.told, condition, len(condition))
        heard = self.texts(condition)
        return part_of(heard, [name for name in heard.values if name not in self.tokens])

    def _laid_beside(self, x: Tensor, condition: Condition | None) -> Tensor:
        """Return pictures as vectors, `(B, channels)`, each with whether it is there."""
        pictures = part_of(condition, self.pictures)
        if pictures is not None:
            values = {name: value.flatten(1) for name, value in pictures.values.items()}
            pictures = Condition(values, pictures.hidden_rows)
        check(self.pictures, pictures, len(x))
        return torch.cat(laid_beside(x.flatten(1), pictures, self.pictures), 1)


class Block(nn.Module):
    """A block computes `h + W_2 silu(W_1 silu(h) + V embedding)`, for features `(B, width)`.

    One that is `scaled` computes `h + W_2 silu((1 + U embedding) W_1 silu(h) + V embedding)`.
    """

    def __init__(self, width: int, scaled: bool = False) -> None:
        super().__init__()
        self.first = linear(width, width)
        self.modulation = linear(width, width)
        self.second = linear(width, width)
        self.scale = linear(width, width, init_scale=SCALE) if scaled else None

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        inner = self.first(F.silu(h))
        if self.scale is not None:
            inner = inner * (1 + self.scale(embedding))
        return h + self.second(F.silu(inner + self.modulation(embedding)))
