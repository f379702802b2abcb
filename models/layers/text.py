"""How a network hears a text: as tokens, to which positions attend, and as a vector, which modulates.

A text is whole numbers `(B, L)`, words by their place in a vocabulary, 0 for nothing more (`data.captions`). A small
transformer, in which words attend to each other and which is trained along, makes a token of each, `(B, L, width)`; the
vector is their mean (`models.layers.condition`).

Or it is rows that a frozen encoder has made, a vector and tokens (`data.embedded`), zeros for nothing more. Each row is
normalised and brought to the same width by a map that is trained along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition

WIDTH, _DEPTH, _HEADS = 128, 2, 4
_NOTHING = 0


@dataclass(frozen=True)
class Text:
    """A condition that is a text of at most `length` words, each a whole number below `count`: `(B, length)`."""

    count: int
    length: int


@dataclass(frozen=True)
class EmbeddedText:
    """A text as a frozen encoder tells it is rows, a vector and `length` tokens: `(B, 1 + length, size)`."""

    length: int
    size: int


class TextEncoder(nn.Module):
    """Words become tokens, which know of each other, and a vector of all.

    Args:
        text: the number of words that there are, and that a text has.
        width: size of a token.
    """

    def __init__(self, text: Text, width: int = WIDTH) -> None:
        super().__init__()
        self.words = nn.Embedding(text.count, width)
        self.places = nn.Parameter(torch.randn(text.length, width) / width**0.5)
        layer = nn.TransformerEncoderLayer(
            width, _HEADS, 2 * width, dropout=0.0, activation=_gelu, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _DEPTH, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens `(B, L, width)`, and the vector of all words `(B, width)`, of words `(B, L)`."""
        nothing = numbers == _NOTHING
        # A text without words has one that says nothing.
        nothing = nothing & ~(nothing.all(1, keepdim=True) & (torch.arange(numbers.shape[1]) == 0).to(nothing.device))
        tokens = self.norm(self.layers(self.words(numbers) + self.places, src_key_padding_mask=nothing))
        there = (~nothing).unsqueeze(-1).to(tokens)
        return tokens * there, (tokens * there).sum(1) / there.sum(1)


class Bridge(nn.Module):
    """The rows of a frozen encoder become tokens and a vector that networks hear, each by a map of its own.

    Args:
        text: the size of rows.
        width: size of a token.
    """

    def __init__(self, text: EmbeddedText, width: int = WIDTH) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.LayerNorm(text.size), nn.Linear(text.size, width))
        self.whole = nn.Sequential(nn.LayerNorm(text.size), nn.Linear(text.size, width))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens `(B, L, width)`, zeros where there is nothing, and the vector `(B, width)`."""
        rows = rows.to(next(self.parameters()))
        there = (rows[:, 1:] != 0).any(-1, keepdim=True).to(rows)
        return self.tokens(rows[:, 1:]) * there, self.whole(rows[:, 0])


def _gelu(x: Tensor) -> Tensor:
    # PyTorch's fused layer, which it takes for its own activations where no gradient is wanted, approximates on GPUs.
    return F.gelu(x)


class Texts(nn.Module):
    """The texts of a condition are replaced by their tokens, and their vectors beside, under a name of their own.

    Args:
        texts: what texts there are, by name.
    """

    def __init__(self, texts: Mapping[str, Text | EmbeddedText]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: TextEncoder(text) if isinstance(text, Text) else Bridge(text) for name, text in texts.items()}
        )

    def forward(self, condition: Condition | None) -> Condition | None:
        """Return the condition with tokens and vectors; what is hidden stays so."""
        if condition is None or not any(name in condition.values for name in self.encoders):
            return condition
        values, hidden = dict(condition.values), dict(condition.hidden_rows)
        for name, encoder in self.encoders.items():
            if name in values:
                values[name], values[whole(name)] = encoder(values[name])
                if name in hidden:
                    hidden[whole(name)] = hidden[name]
        return Condition(values, hidden)


def whole(name: str) -> str:
    """Return the name under which the vector of a text is heard."""
    return f"{name}_whole"
