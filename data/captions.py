"""Captions as a network is told them: words by their numbers in a vocabulary, `(B, L)`, whole numbers.

    0           nothing more: captions shorter than the longest end so
    1           a word that no caption of the training part has
    2, 3, …     the words of the training part, in alphabetical order

Words are what lies between blanks, without case, and marks by themselves: `bold sans, latin` has four.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

NOTHING, UNKNOWN, FIRST = 0, 1, 2
CAPTION = "caption"
_WORD = re.compile(r"\w+|[^\w\s]")


def words_of(caption: str) -> list[str]:
    """Return the words of a caption, in lower case, and its marks."""
    return _WORD.findall(caption.lower())


@dataclass(frozen=True)
class Words:
    """The words of captions become their numbers.

    Attributes:
        vocabulary: the words of the training part.
        length: the number of words of its longest caption; of longer ones, the rest is not told.
    """

    vocabulary: tuple[str, ...]
    length: int

    @staticmethod
    def of(captions: Iterable[str]) -> Words:
        """Return the words of these captions, those of the training part."""
        split = [words_of(caption) for caption in captions]
        return Words(tuple(sorted({word for words in split for word in words})), max(map(len, split), default=1))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one caption's numbers is `(L,)`."""
        return (self.length,)

    @property
    def count(self) -> int:
        """The number of values that a number can have, nothing and unknown words among them."""
        return FIRST + len(self.vocabulary)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word of the vocabulary."""
        return {word: FIRST + k for k, word in enumerate(self.vocabulary)}

    def read(self, captions: Sequence[str]) -> Tensor:
        """Return the numbers of the words of captions, `(N, L)`, int64."""
        read = torch.full((len(captions), self.length), NOTHING)
        for row, caption in zip(read, captions, strict=True):
            words = [self.numbers.get(word, UNKNOWN) for word in words_of(caption)[: self.length]]
            row[: len(words)] = torch.tensor(words, dtype=torch.long)
        return read

    def text(self, numbers: Tensor) -> list[str]:
        """Return captions from the numbers of their words `(N, L)`, with `?` for unknown words."""
        called = {UNKNOWN: "?", **{number: word for word, number in self.numbers.items()}}
        return [" ".join(called[k] for k in row if k != NOTHING).replace(" ,", ",") for row in numbers.tolist()]

    def complaints(self, caption: str) -> list[str]:
        """Say what of a caption is not told: words that are not known, and those beyond the longest caption."""
        words = words_of(caption)
        unknown = sorted({word for word in words if word not in self.numbers})
        said = [f"no caption of the training data has {', '.join(unknown)}"] if unknown else []
        if len(words) > self.length:
            said.append(f"the longest has {self.length} words, of {len(words)} the rest is not heard")
        return said

    def encode(self, values: Tensor, beside: tuple[int, ...]) -> Tensor:
        """Return what a network is told beside examples of any shape: the numbers `(B, L)` as they are."""
        return values

    def told_shape(self, beside: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is told of one example, `(L,)`."""
        return self.shape

    def describe(self) -> dict[str, Any]:
        """Return what is known of the words, in plain values."""
        return {"words": list(self.vocabulary), "length": self.length, "shape": list(self.shape)}

    @staticmethod
    def described(description: Mapping[str, Any]) -> Words:
        """Return the words that `describe` described."""
        return Words(tuple(description["words"]), int(description["length"]))
