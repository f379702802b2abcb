r"""Attention of the positions of a feature map to each other, and to tokens.

    softmax(Q K^T / sqrt(C)) V,      Q affine in the normalised features of each position, one head or several

K and V are affine in the same features (self-attention), or in tokens (cross-attention). A position does not know where
it is, nor a token which it is: a permutation of the tokens changes nothing.

(Vaswani et al. 2017, arXiv:1706.03762; in this form Ho et al. 2020, arXiv:2006.11239.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.models.layers.basic import group_norm, linear, residual_sum, transforms_active


def attention(query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
    """Return `softmax(Q K^T / sqrt(C)) V` by PyTorch's fused kernel, with all derivatives.

    The fused kernels have a first derivative in reverse mode only. Under forward-mode differentiation or a function
    transform the formula is written out instead; a backward pass that is itself to be differentiated
    (`create_graph=True`) uses the written-out gradient.

    Args:
        query: Q, `(B, N, C)`, or of several heads `(B, heads, N, C)`.
        key: K, likewise.
        value: V, likewise.
        causal: whether a position attends to none after it.
    """
    if transforms_active():
        return _weights(query, key, causal) @ value
    if query.ndim == 3:
        fused = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], is_causal=causal)[:, 0]
    else:
        fused = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and fused.requires_grad):
        return fused
    return _DifferentiableTwice.apply(fused, query, key, value, causal)


def _weights(query: Tensor, key: Tensor, causal: bool) -> Tensor:
    """Return `softmax(Q K^T / sqrt(C))`, `(…, N, N)`, without what lies after each position if it is `causal`."""
    logits = query @ key.mT / math.sqrt(query.shape[-1])
    if causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(later, -math.inf)
    return torch.softmax(logits, dim=-1)


class _DifferentiableTwice(torch.autograd.Function):
    """This identity on a fused attention's output decides in the backward pass who computes the gradient.

    An ordinary backward pass hands the gradient on to the fused kernel. One that builds a graph (grad mode is on in it)
    computes the gradients of query, key and value from their formula, in differentiable operations, and hands nothing
    on.
    """

    @staticmethod
    def forward(ctx: Any, fused: Tensor, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.causal = causal
        return fused.view_as(fused)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return gradient, None, None, None, None
        query, key, value = ctx.saved_tensors
        weights = _weights(query, key, ctx.causal)
        weights_gradient = gradient @ value.mT
        logits_gradient = weights * (weights_gradient - (weights_gradient * weights).sum(-1, keepdim=True))
        logits_gradient = logits_gradient / math.sqrt(query.shape[-1])
        return None, logits_gradient @ key, logits_gradient.mT @ query, weights.mT @ gradient, None


class SelfAttention(nn.Module):
    """A residual block attends over positions with one head or several: `(B, C, *size)` to the same shape.

    Args:
        channels: C.
        channels_per_group: least number of channels in a GroupNorm group.
        init_scale: scale of the last layer's initial weights.
        skip_rescale: divide the sum by sqrt(2).
        num_heads: number of heads, which divide C.
        heads_first: whether the one map that makes all of them makes Q, K, V of the first head, then those of the
            second …; otherwise it makes Q of all heads, then K, then V.
        eps: what is added to a group's variance.
    """

    def __init__(
        self,
        channels: int,
        *,
        channels_per_group: int = 4,
        init_scale: float = 0.0,
        skip_rescale: bool = False,
        num_heads: int = 1,
        heads_first: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.num_heads, self.heads_first = num_heads, heads_first
        self.norm = group_norm(channels, channels_per_group, eps)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        # One map computes all three; its parts are initialised as three separate maps of scale 0.1.
        bound = math.sqrt(3 * 0.1 / channels)
        nn.init.uniform_(self.query_key_value.weight, -bound, bound)
        nn.init.zeros_(self.query_key_value.bias)
        self.output = linear(channels, channels, init_scale=init_scale)
        self.skip_rescale = skip_rescale

    def forward(self, x: Tensor) -> Tensor:
        made = self.query_key_value(_positions(self.norm(x)))
        attended = attention(*made.chunk(3, dim=-1)) if self.num_heads == 1 else self._of_heads(made)
        return residual_sum(x, _features(self.output(attended), x), self.skip_rescale)

    def _of_heads(self, made: Tensor) -> Tensor:
        """Return what heads attend to, side by side `(B, N, C)`, from their Q, K and V, `(B, N, 3 C)`."""
        order = (self.num_heads, 3, -1) if self.heads_first else (3, self.num_heads, -1)
        apart = made.unflatten(-1, order)
        query, key, value = (part.transpose(1, 2) for part in apart.unbind(-2 if self.heads_first else -3))
        return attention(query, key, value).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """A residual block attends to tokens with a single head: `(B, C, *size)` and `(B, N, W)` to the first shape.

    Args:
        channels: C.
        token_width: W.
        channels_per_group: least number of channels in a GroupNorm group.
        init_scale: scale of the last layer's initial weights.
        skip_rescale: divide the sum by sqrt(2).
    """

    def __init__(
        self,
        channels: int,
        token_width: int,
        *,
        channels_per_group: int = 4,
        init_scale: float = 0.0,
        skip_rescale: bool = False,
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, channels_per_group)
        self.query = linear(channels, channels)
        self.key_value = linear(token_width, 2 * channels)
        self.output = linear(channels, channels, init_scale=init_scale)
        self.skip_rescale = skip_rescale

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        query = self.query(_positions(self.norm(x)))
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        branch = _features(self.output(attention(query, key, value)), x)
        return residual_sum(x, branch, self.skip_rescale)


def _positions(features: Tensor) -> Tensor:
    """Return `(B, C, *size)` as a list of positions, `(B, N, C)`."""
    return features.movedim(1, -1).reshape(len(features), -1, features.shape[1])


def _features(positions: Tensor, like: Tensor) -> Tensor:
    """Return a list of positions, `(B, N, C)`, as features of the shape of `like`, `(B, C, *size)`."""
    return positions.reshape(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)
