"""What a U-Net does at one resolution: residual blocks, attention, and the steps to the next resolution."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from score_sde.models.layers.attention import CrossAttention, SelfAttention
from score_sde.models.layers.basic import transforms_active
from score_sde.models.layers.pyramids import InputResidual, InputSkip, OutputResidual, OutputResidualStart, OutputSkip

OutputPyramid = OutputSkip | OutputResidualStart | OutputResidual


class Stage(nn.Module):
    """A stage is a residual block and, after it, attention, if any: of positions to each other, then to tokens.

    Args:
        residual: the residual block, called with features and an embedding.
        attention: self-attention.
        recompute: recompute activations in the backward pass instead of keeping them.
        cross_attention: for each name of a condition that is tokens, attention to them.
    """

    def __init__(
        self,
        residual: nn.Module,
        attention: SelfAttention | None,
        recompute: bool,
        cross_attention: Mapping[str, CrossAttention] | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention
        self.cross_attention = nn.ModuleDict(cross_attention)
        self.recompute = recompute

    def forward(self, x: Tensor, embedding: Tensor | None, tokens: Mapping[str, Tensor] | None = None) -> Tensor:
        if self.recompute and torch.is_grad_enabled() and not transforms_active():
            return checkpoint(self._evaluate, x, embedding, tokens, use_reentrant=False)
        return self._evaluate(x, embedding, tokens)

    def _evaluate(self, x: Tensor, embedding: Tensor | None, tokens: Mapping[str, Tensor] | None) -> Tensor:
        h = self.residual(x, embedding)
        if self.attention is not None:
            h = self.attention(h)
        for name, attend in self.cross_attention.items():
            assert tokens is not None
            h = attend(h, tokens[name])
        return h


class EncoderResolution(nn.Module):
    """On the way down a resolution has blocks, then (but for the last) a step to the next, where the input may join."""

    def __init__(self, blocks: nn.ModuleList, down: nn.Module | None, inject: InputSkip | InputResidual | None) -> None:
        super().__init__()
        self.blocks = blocks
        self.down = down
        self.inject = inject

    def forward(self, h: Tensor, pyramid: Tensor, embedding: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """Return all feature maps made here, in order, and the input pyramid."""
        features = []
        for block in self.blocks:
            h = block(h, embedding)
            features.append(h)
        if self.down is not None:
            h = self.down(h, embedding)
            if self.inject is not None:
                h, pyramid = self.inject(h, pyramid)
            features.append(h)
        return features, pyramid


class DecoderResolution(nn.Module):
    """On the way up a resolution has blocks, each fed a feature map of the encoder, an output pyramid, and a step."""

    def __init__(self, blocks: nn.ModuleList, emit: OutputPyramid | None, up: nn.Module | None) -> None:
        super().__init__()
        self.blocks = blocks
        self.emit = emit
        self.up = up

    def forward(
        self, h: Tensor, skips: list[Tensor], output: Tensor | None, embedding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return features for the next resolution and the output pyramid, taking maps from the end of `skips`."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        if self.emit is not None:
            h, output = self.emit(h, output)
        return (h if self.up is None else self.up(h, embedding)), output
