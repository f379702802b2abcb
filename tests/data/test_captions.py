"""Captions become numbers of words, and back."""

from __future__ import annotations

import torch

from score_sde.data.captions import Words

WORDS = Words.of(["bold sans, small a", "mono, small b with acute"])


def test_words_are_numbered_in_alphabetical_order_and_captions_end_in_nothing():
    assert WORDS.vocabulary == (",", "a", "acute", "b", "bold", "mono", "sans", "small", "with")
    assert (WORDS.length, WORDS.count) == (6, 11)
    numbers = WORDS.read(["Bold sans, small a", "italic sans"])
    assert numbers.tolist() == [[6, 8, 2, 9, 3, 0], [1, 8, 0, 0, 0, 0]]
    assert WORDS.text(numbers) == ["bold sans, small a", "? sans"]


def test_what_is_not_heard_is_said():
    assert WORDS.complaints("bold sans, small b") == []
    assert WORDS.complaints("a heavenly bold sans") == ["no caption of the training data has heavenly"]
    assert WORDS.complaints("a a a a a a a") == ["the longest has 6 words, of 7 the rest is not heard"]


def test_they_are_described_in_plain_values():
    assert Words.described(WORDS.describe()) == WORDS
    assert torch.equal(WORDS.encode(WORDS.read(["mono"]), (1, 8, 8)), WORDS.read(["mono"]))
