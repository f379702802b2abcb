"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two encoders of texts, both of which are there.

    text_encoder, text_encoder_2    CLIP's: the hidden states before the last, beside each other in each token; and the
                                    second's vector of the whole text

Its network, which is told of sizes besides, is in `models.pretrained.stable_diffusion`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.models.layers.text import whole
from score_sde.models.pretrained.diffusers_text import FIRST, SECOND, Encoder, TextEncoder
from score_sde.models.pretrained.stable_diffusion import CAPTION

ENCODERS_XL = {
    FIRST: Encoder("CLIPTextModel", "tokenizer", layer=-2),
    SECOND: Encoder("CLIPTextModelWithProjection", "tokenizer_2", layer=-2),
}


class TwoTexts(nn.Module):
    """Two encoders make of texts what the network hears of them.

    Args:
        encoders: both, by the names of parts.

    Raises:
        UserError: they hear different numbers of tokens.
    """

    def __init__(self, encoders: Mapping[str, TextEncoder]) -> None:
        super().__init__()
        self.encoders: Any = nn.ModuleDict(encoders)
        lengths = [encoder.length for encoder in encoders.values()]
        if len(set(lengths)) > 1:
            raise UserError(f"its two encoders of texts hear {lengths[0]} and {lengths[1]} tokens, which must agree")

    @property
    def told_shape(self) -> tuple[int, int]:
        """The shape of the tokens of one text."""
        widths = [int(each.encoder.config.hidden_size) for each in self.encoders.values()]
        return self.encoders[FIRST].length, sum(widths)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return, by name, what is heard of texts: tokens `(N, L, width)`, and a vector `(N, vector_width)`."""
        (first, _), (second, vector) = (self.encoders[name](texts) for name in (FIRST, SECOND))
        return {CAPTION: torch.cat([first, second], dim=-1), whole(CAPTION): vector}

    def complaints(self, text: str) -> list[str]:
        """Say of a text that is too long what is not heard of it; both encoders hear as much."""
        return self.encoders[FIRST].complaints(text)
