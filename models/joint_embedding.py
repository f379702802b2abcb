r"""Pictures and captions in one space: CLIP (Radford et al. 2021, arXiv:2103.00020), small.

    u = normalised f(picture),    v = normalised g(caption),    both on the unit sphere of R^d

Training (`training.contrastive`) makes `u · v` large for a picture and its own caption, and small for others', times a
scale that is learnt. `f` is the encoder half of a U-Net, `g` a small transformer over words (`models.layers.text`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.models.layers.basic import linear
from score_sde.models.layers.text import WIDTH, Text, TextEncoder
from score_sde.models.networks.encoder import Encoder

# The scale is 1 / temperature; where it begins, and what it may become at most, are CLIP's.
_FIRST_SCALE, _MOST_SCALE = 1 / 0.07, 100.0


class JointEmbedding(nn.Module):
    """Pictures and captions are embedded as vectors of norm 1, which are near each other where one is of the other.

    Args:
        image_size: height and width of pictures.
        in_channels: their channels.
        text: the words that captions have.
        size: the number `d` of numbers of an embedding.
        channels: width of the encoder of pictures, like the next three as of `networks.Encoder`.
        channel_multipliers: width at each resolution in units of `channels`.
        num_blocks: residual blocks per resolution.
        dropout: probability of dropping an activation.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int,
        text: Text,
        size: int,
        *,
        channels: int = 32,
        channel_multipliers: Sequence[int] = (1, 2, 2),
        num_blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.of_pictures = Encoder(
            image_size,
            in_channels,
            size,
            channels=channels,
            channel_multipliers=channel_multipliers,
            num_blocks=num_blocks,
            dropout=dropout,
        )
        self.of_words = TextEncoder(text)
        self.of_captions = linear(WIDTH, size)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    @property
    def size(self) -> int:
        """The size is the number of numbers of an embedding."""
        return self.of_captions.out_features

    @property
    def scale(self) -> Tensor:
        """The scale `()` is what cosines are multiplied by to be logits, 100 at most."""
        return self.log_scale.clamp(max=math.log(_MOST_SCALE)).exp()

    def pictures(self, x: Tensor) -> Tensor:
        """Return the embeddings `(B, d)` of pictures `x` `(B, C, H, W)` in model units."""
        # The encoder is one that can be told of noise, of which there is none.
        return _on_sphere(self.of_pictures(x, torch.zeros(len(x), device=x.device)))

    def captions(self, words: Tensor) -> Tensor:
        """Return the embeddings `(B, d)` of captions, the numbers of their words `(B, L)`."""
        _, whole = self.of_words(words)
        return _on_sphere(self.of_captions(whole))


def _on_sphere(z: Tensor) -> Tensor:
    """Return vectors `(B, d)` divided by their norms, in float32 at least."""
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
