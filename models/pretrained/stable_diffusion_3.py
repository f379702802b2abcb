"""Stable Diffusion 3 (Esser et al. 2024, arXiv:2403.03206): three encoders of texts, each of which may be missing.

    text_encoder, text_encoder_2    CLIP's: the hidden state before the last, beside each other in each token, filled up
                                    with zeros; and their vectors of the whole text, beside each other
    text_encoder_3                  T5's: tokens after those

Of an encoder that is missing tokens and vectors are zero, as they were now and then in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.models.layers.text import whole
from score_sde.models.pretrained.diffusers_text import FIRST, SECOND, Encoder, TextEncoder
from score_sde.models.pretrained.stable_diffusion import CAPTION, Nothing

_CLIP_LENGTH, _T5_LENGTH = 77, 256


THIRD = "text_encoder_3"
ENCODERS = {
    FIRST: Encoder("CLIPTextModelWithProjection", "tokenizer", layer=-2),
    SECOND: Encoder("CLIPTextModelWithProjection", "tokenizer_2", layer=-2),
    THIRD: Encoder("T5EncoderModel", "tokenizer_3", ("T5Tokenizer", "T5TokenizerFast"), _T5_LENGTH),
}


class ThreeTexts(nn.Module):
    """Three encoders, or fewer, make of texts what the network hears of them.

    Args:
        encoders: those that are there, by the names of parts.
        token_width: the size of a token that the network hears.
        vector_width: the size of the vector of the whole text.
    """

    def __init__(self, encoders: Mapping[str, TextEncoder], token_width: int, vector_width: int) -> None:
        super().__init__()
        self.encoders: Any = nn.ModuleDict(encoders)
        self.token_width, self.vector_width = token_width, vector_width
        clips: list[Any] = [encoder for name, encoder in encoders.items() if name != THIRD]
        self.clip_length = clips[0].length if clips else _CLIP_LENGTH
        known = sum(int(encoder.encoder.config.projection_dim) for encoder in clips)
        # What is not there of the vector is of those that are missing, whose tokens have as many numbers.
        self.missing_width = 0 if len(clips) == 2 else vector_width - known

    @property
    def told_shape(self) -> tuple[int, int]:
        """The shape of the tokens of one text."""
        return self.clip_length + _T5_LENGTH, self.token_width

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return, by name, what is heard of texts: tokens `(N, L, token_width)`, and a vector `(N, vector_width)`."""
        count, made = len(texts), {name: encoder(texts) for name, encoder in self.encoders.items()}
        like = next((tokens for tokens, _ in made.values()), torch.zeros(1))
        tokens, vectors = [], []
        for name in (FIRST, SECOND):
            if name in made:
                tokens.append(made[name][0])
                vectors.append(made[name][1])
            elif FIRST in made or SECOND in made:
                tokens.append(like.new_zeros(count, self.clip_length, self.missing_width))
                vectors.append(like.new_zeros(count, self.missing_width))
        if not vectors:
            tokens, vectors = [like.new_zeros(count, self.clip_length, 0)], [like.new_zeros(count, self.vector_width)]
        clip = torch.cat(tokens, dim=-1)
        clip = F.pad(clip, (0, self.token_width - clip.shape[-1]))
        third = made[THIRD][0] if THIRD in made else like.new_zeros(count, _T5_LENGTH, self.token_width)
        return {CAPTION: torch.cat([clip, third], dim=1), whole(CAPTION): torch.cat(vectors, dim=-1)}

    def complaints(self, text: str) -> list[str]:
        """Say of a text that is too long for one of the encoders what is not heard of it, a line for the worst."""
        lines = [encoder.complaints(text) for encoder in self.encoders.values()]
        # What the longest hears is heard.
        return [] if not lines or not all(lines) else lines[-1]


class AlwaysTold(nn.Module):
    """A network that is always told of a text hears that there are no words where a prompt is hidden, or not there.

    Args:
        network: called as `network(x, noise_label, condition)`.
        nothing: what is heard of no words, by name, one row each.
    """

    def __init__(self, network: nn.Module, nothing: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network = network
        self.nothing = Nothing(nothing)

    def forward(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the output, shape of `x`."""
        return self.network(x, noise_label, Condition(self.nothing.said(condition, len(x))))
