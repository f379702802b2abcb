"""Prompts as a network of a published pipeline is told them: by text encoders that were trained elsewhere.

What is heard of a prompt may be several things at once, each under a name of its own: the tokens that positions attend
to, `(N, L, width)`, under the name of the caption, and vectors of it as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# A function gives, by name, what is heard of texts, `(N, *dims)` each, …
Embed = Callable[[list[str]], Mapping[str, Tensor]]
# … and another says what is not heard of one, a line each.
Complain = Callable[[str], list[str]]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts become what text encoders make of them.

    Attributes:
        embed: what they make of texts.
        shape: the shape of one text's tokens, `(L, width)`.
        complaints: says what of a text is not heard.
    """

    embed: Embed
    shape: tuple[int, ...]
    complaints: Complain = lambda text: []

    def read(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return, by name, what is heard of captions, `(N, *dims)` each; texts that are alike are encoded once."""
        texts = list(dict.fromkeys(captions))
        places = torch.tensor([texts.index(caption) for caption in captions])
        return {name: value[places.to(value.device)] for name, value in self.embed(texts).items()}

    def encode(self, values: Tensor, beside: tuple[int, ...]) -> Tensor:
        """Return what a network is told beside examples of any shape: the tokens as they are."""
        return values

    def told_shape(self, beside: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is told of one example, `(L, width)`."""
        return self.shape

    def describe(self) -> dict[str, Any]:
        """Return what is known of the prompts, in plain values, which do not make them again."""
        return {"shape": list(self.shape)}
