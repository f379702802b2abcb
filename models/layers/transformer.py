r"""A transformer's block whose norms are told the time and the condition, which begins as the identity: adaLN-zero.

    h <- h + gate_1 Attention((1 + scale_1) norm(h) + shift_1)
    h <- h + Attention(norm(h), tokens)                              where there are tokens, for each name
    h <- h + gate_2 MLP((1 + scale_2) norm(h) + shift_2)

Shifts, scales and gates are affine in the embedding, at first zero (Peebles & Xie 2022, arXiv:2212.09748). Attention to
tokens lies between, and begins at zero, too (Chen et al. 2023, arXiv:2310.00426).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from score_sde.models.layers.attention import attention
from score_sde.models.layers.basic import linear, transforms_active

# Features of the MLP within a block, in units of the width.
_EXPANSION = 4


def plain_norm(width: int) -> nn.LayerNorm:
    """Return a norm over the features of a position, without weights of its own."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """Return an affine map that is zero at first."""
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return `(1 + scale) h + shift`, of features `(B, N, width)` and numbers of each example, `(B, 1, width)`."""
    return torch.addcmul(shift, h, 1 + scale)


class TransformerBlock(nn.Module):
    """A block changes features of positions `(B, N, width)`, told of an embedding `(B, width)` and of tokens.

    Args:
        width: number of features.
        num_heads: heads of attention, which divide the width.
        token_widths: the size of a token, for each name of a condition that is tokens.
        causal: whether positions attend to none after them.
        recompute: recompute activations in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        token_widths: Mapping[str, int] | None = None,
        causal: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.recompute = recompute
        self.modulation = zero_linear(width, 6 * width)
        self.norm_attention = plain_norm(width)
        self.query_key_value = linear(width, 3 * width)
        self.output = linear(width, width)
        self.to_tokens = nn.ModuleDict(
            {name: ToTokens(width, num_heads, size) for name, size in (token_widths or {}).items()}
        )
        self.norm_mlp = plain_norm(width)
        self.expand = linear(width, _EXPANSION * width)
        self.contract = linear(_EXPANSION * width, width)

    def forward(self, h: Tensor, embedding: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        if self.recompute and torch.is_grad_enabled() and not transforms_active():
            return checkpoint(self._evaluate, h, embedding, tokens, use_reentrant=False)
        return self._evaluate(h, embedding, tokens)

    def _evaluate(self, h: Tensor, embedding: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        numbers = self.modulation(embedding)[:, None]
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = numbers.chunk(6, dim=-1)
        h = torch.addcmul(h, gate_1, self._attend(modulated(self.norm_attention(h), shift_1, scale_1)))
        for name, attend in self.to_tokens.items():
            h = h + attend(h, tokens[name])
        inner = self.expand(modulated(self.norm_mlp(h), shift_2, scale_2))
        return torch.addcmul(h, gate_2, self.contract(F.gelu(inner, approximate="tanh")))

    def _attend(self, h: Tensor) -> Tensor:
        query, key, value = (heads(part, self.num_heads) for part in self.query_key_value(h).chunk(3, dim=-1))
        return self.output(joined(attention(query, key, value, self.causal)))


class ToTokens(nn.Module):
    """Positions `(B, N, width)` attend to tokens `(B, M, size)`, in no order; the answer is zero at first.

    Args:
        width: number of features.
        num_heads: heads of attention.
        size: size of a token.
    """

    def __init__(self, width: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = plain_norm(width)
        self.query = linear(width, width)
        self.key_value = linear(size, 2 * width)
        self.output = zero_linear(width, width)

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        query = heads(self.query(self.norm(h)), self.num_heads)
        key, value = (heads(part, self.num_heads) for part in self.key_value(tokens).chunk(2, dim=-1))
        return self.output(joined(attention(query, key, value)))


def heads(features: Tensor, count: int) -> Tensor:
    """Return features `(B, N, width)` as those of so many heads, `(B, count, N, width / count)`."""
    return features.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(features: Tensor) -> Tensor:
    """Return features of heads, `(B, count, N, C)`, side by side: `(B, N, count C)`."""
    return features.transpose(1, 2).flatten(2)
