r"""A transformer of two streams, patches and words, that attend to each other: MMDiT.

(Esser et al. 2024, arXiv:2403.03206.)

    h = patches of x, each an affine map of its numbers, plus where it lies          c = an affine map of each token
    e = what is told of the time and of the text as a whole

Each block has weights of its own for either stream, and one attention over both (figure 2b there):

    q, k, v     from (1 + scale) norm(h) + shift and likewise of c, beside each other
    h <- h + gate Attention(q, k, v)_h,      h <- h + gate MLP((1 + scale) norm(h) + shift);      c likewise

with shifts, scales and gates affine in e, one set for either stream. The last block has no words after it. Queries and
keys may be normalised, by their root mean square, with a weight for each number; blocks may have a second attention,
of patches to patches alone, beside the first (version 3.5 of Stable Diffusion).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.attention import attention
from score_sde.models.layers.basic import linear
from score_sde.models.layers.embeddings import CosineFeatures
from score_sde.models.layers.patches import from_patches, places, to_patches
from score_sde.models.layers.text import whole
from score_sde.models.layers.transformer import heads, joined, modulated, plain_norm, zero_linear

_NUM_TIME_FEATURES = 256
_EXPANSION = 4
_EPS = 1e-6


class TwoLayers(nn.Module):
    """Two affine maps make an embedding of features, `(B, in_features)` to `(B, width)`."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.hidden, self.output = linear(in_features, width), linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.output(F.silu(self.hidden(features)))


class Heads(nn.Module):
    """Queries, keys and values of several heads are made of features, and features again of what heads attend to.

    Args:
        width: number of features.
        num_heads: heads of attention, which divide the width.
        normalised: whether queries and keys are normalised.
        with_output: whether features are made again.
    """

    def __init__(self, width: int, num_heads: int, normalised: bool, with_output: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = linear(width, 3 * width)
        size = width // num_heads
        self.norm_query = nn.RMSNorm(size, eps=_EPS) if normalised else nn.Identity()
        self.norm_key = nn.RMSNorm(size, eps=_EPS) if normalised else nn.Identity()
        self.output = linear(width, width) if with_output else nn.Identity()

    def made(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of features `(B, N, width)`, each `(B, heads, N, width / heads)`."""
        query, key, value = (heads(part, self.num_heads) for part in self.query_key_value(h).chunk(3, dim=-1))
        return self.norm_query(query), self.norm_key(key), value


class Stream(nn.Module):
    """One of the two streams has these weights in a block.

    Args:
        width: number of features.
        num_heads: heads of attention.
        normalised: whether queries and keys are normalised.
        last: whether nothing follows the attention, as for words in the last block.
        num_more: how many more numbers of each feature are told of the time than the six (two, if it is the last).
    """

    def __init__(self, width: int, num_heads: int, normalised: bool, last: bool = False, num_more: int = 0) -> None:
        super().__init__()
        self.count = (2 if last else 6) + num_more
        self.modulation = zero_linear(width, self.count * width)
        self.attention = Heads(width, num_heads, normalised, with_output=not last)
        self.expand = nn.Identity() if last else linear(width, _EXPANSION * width)
        self.contract = nn.Identity() if last else linear(_EXPANSION * width, width)

    def told(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale, then gate, shift, scale and gate, and what more there is, `(B, 1, width)` each."""
        return self.modulation(embedding)[:, None].chunk(self.count, dim=-1)

    def after(self, h: Tensor, attended: Tensor, told: tuple[Tensor, ...]) -> Tensor:
        """Return features with what heads attend to, and then the MLP's change, added."""
        gate, shift, scale, gate_mlp = told
        h = torch.addcmul(h, gate, self.attention.output(attended))
        return self.mlp(h, shift, scale, gate_mlp)

    def mlp(self, h: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """Return features with the MLP's change added."""
        inner = self.expand(modulated(F.layer_norm(h, h.shape[-1:], eps=_EPS), shift, scale))
        return torch.addcmul(h, gate, self.contract(F.gelu(inner, approximate="tanh")))


class JointBlock(nn.Module):
    """A block changes patches `(B, N, width)` and words `(B, L, width)`, told of an embedding `(B, width)`.

    Args:
        width: number of features.
        num_heads: heads of attention.
        normalised: whether queries and keys are normalised.
        last: whether words end here.
        alone: whether patches attend to each other besides.
    """

    def __init__(self, width: int, num_heads: int, normalised: bool, last: bool, alone: bool) -> None:
        super().__init__()
        self.last = last
        self.patches = Stream(width, num_heads, normalised, num_more=3 if alone else 0)
        self.words = Stream(width, num_heads, normalised, last)
        self.alone = Heads(width, num_heads, normalised) if alone else None
        self.norm = plain_norm(width)

    def forward(self, h: Tensor, words: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, *told = self.patches.told(embedding)
        shift_words, scale_words, *told_words = self.words.told(embedding)
        normed = self.norm(h)
        normed_words = modulated(self.norm(words), shift_words, scale_words)
        attended, attended_words = self._attended(modulated(normed, shift, scale), normed_words)
        gate, *told_mlp = told[:4]
        h = torch.addcmul(h, gate, self.patches.attention.output(attended))
        if self.alone is not None:
            shift, scale, gate = told[4:]
            besides = joined(attention(*self.alone.made(modulated(normed, shift, scale))))
            h = torch.addcmul(h, gate, self.alone.output(besides))
        h = self.patches.mlp(h, *told_mlp)
        return h, words if self.last else self.words.after(words, attended_words, tuple(told_words))

    def _attended(self, h: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return what patches and words attend to, in both; queries, keys and values are given back before the MLPs."""
        made = zip(self.patches.attention.made(h), self.words.attention.made(words), strict=True)
        query, key, value = (torch.cat(both, dim=2) for both in made)
        attended = joined(attention(query, key, value))
        return attended[:, : h.shape[1]], attended[:, h.shape[1] :]


class MMDiT(nn.Module):
    """This transformer takes pictures, or latents of them, of any size up to `most_patches` along an axis.

    Call it as `network(x, noise_label, condition)`, with states `(B, in_channels, H, W)`, labels `(B,)` and a condition
    of as many examples that has tokens `(B, L, token_width)` under a name, and a vector `(B, vector_width)` of the
    whole text beside (`models.layers.text`). It returns `(B, out_channels, H, W)`, zero at first.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; as many as the input's if left out.
        width: number of features of a patch and of a word.
        num_blocks: number of blocks.
        num_heads: heads of attention, which divide the width.
        patch_size: positions of a patch along each axis.
        token_width: size of a token.
        vector_width: size of the vector of the whole text.
        most_patches: the most patches along an axis; places are counted from the middle of so many.
        normalised: whether queries and keys are normalised.
        alone: the blocks, by their numbers, in which patches attend to each other besides.
        text: the name of the text in the condition.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        width: int,
        num_blocks: int,
        num_heads: int,
        patch_size: int = 2,
        token_width: int,
        vector_width: int,
        most_patches: int = 96,
        normalised: bool = False,
        alone: Collection[int] = (),
        text: str = "caption",
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise UserError(f"{num_heads} heads do not divide a width of {width}: take num_heads that do")
        self.in_channels, self.patch_size, self.most_patches, self.text = in_channels, patch_size, most_patches, text
        numbers = patch_size**2
        self.features = CosineFeatures(_NUM_TIME_FEATURES)
        self.time = TwoLayers(_NUM_TIME_FEATURES, width)
        self.vector = TwoLayers(vector_width, width)
        self.tokens = linear(token_width, width)
        self.input = linear(in_channels * numbers, width)
        self.places: Tensor
        self.register_buffer("places", places((most_patches, most_patches), width).float())
        self.blocks = nn.ModuleList(
            JointBlock(width, num_heads, normalised, last=k == num_blocks - 1, alone=k in alone)
            for k in range(num_blocks)
        )
        self.norm = plain_norm(width)
        self.modulation = zero_linear(width, 2 * width)
        self.output = zero_linear(width, numbers * (in_channels if out_channels is None else out_channels))

    def shard_units(self) -> list[nn.Module]:
        """List the parts whose weights are gathered at a time where they are divided among processes."""
        return list(self.blocks)

    def forward(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the network's output `(B, out_channels, H, W)`.

        Raises:
            UserError: `x` has another shape than is possible, or the text is not told.
        """
        values = {} if condition is None else condition.values
        if self.text not in values or whole(self.text) not in values:
            raise UserError(f"this network is always told of {self.text!r}, tokens and a vector: give a condition")
        place = self._places(x)
        embedding = F.silu(self.time(self.features(noise_label).to(x)) + self.vector(values[whole(self.text)].to(x)))
        h = self.input(to_patches(x, self.patch_size)) + place
        words = self.tokens(values[self.text].to(x))
        for block in self.blocks:
            h, words = block(h, words, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        return from_patches(self.output(modulated(self.norm(h), shift, scale)), x.shape[2:], self.patch_size)

    def _places(self, x: Tensor) -> Tensor:
        """Return what tells the places of patches, `(N, width)`: the middle of the table."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or any(size % self.patch_size for size in x.shape[2:]):
            wanted = f"({self.in_channels}, H, W), with H and W multiples of {self.patch_size}"
            raise UserError(f"this network takes examples of shape {wanted}, not {tuple(x.shape[1:])}")
        height, width = (size // self.patch_size for size in x.shape[2:])
        if max(height, width) > self.most_patches:
            raise UserError(
                f"this network has places for {self.most_patches} patches along an axis, not for {height} x {width}"
            )
        table = self.places.reshape(self.most_patches, self.most_patches, -1)
        top, left = (self.most_patches - height) // 2, (self.most_patches - width) // 2
        return table[top : top + height, left : left + width].flatten(0, 1)
