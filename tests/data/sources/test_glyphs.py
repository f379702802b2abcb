"""Glyphs are drawn as their captions say, and held-out compositions are new while all of their parts are not."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import load_dataset
from score_sde.data.sources import glyphs
from score_sde.data.sources.glyphs import STYLES, Glyph


def words(caption: str) -> tuple[str, str, str]:
    """Return style, letter and accent of a caption of the subset."""
    style, name = caption.split(", ")
    letter, _, accent = name.partition(" with ")
    return style, letter, accent


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("glyphs")


def captions(dataset, part: str) -> list[str]:
    return dataset.condition_units["caption"].text(dataset.conditions[part]["caption"])


def test_the_subset_has_432_letters_in_12_styles_and_no_two_alike(dataset):
    assert dataset.shape == (1, 16, 16)
    told = [*captions(dataset, "train"), *captions(dataset, "test")]
    assert len(told) == len(set(told)) == 432 * 12
    pictures = torch.cat([dataset.train, dataset.test]).flatten(1)
    assert len(pictures.unique(dim=0)) == len(pictures)


def test_what_is_held_out_is_new_and_its_parts_and_their_pairs_are_not(dataset):
    train, test = ([words(caption) for caption in captions(dataset, part)] for part in ("train", "test"))
    assert 0.07 < len(test) / len(train) < 0.12
    assert not set(train) & set(test)
    for pair in ((0, 1), (0, 2), (1, 2)):
        seen = {(parts[pair[0]], parts[pair[1]]) for parts in train}
        assert {(parts[pair[0]], parts[pair[1]]) for parts in test} <= seen


def test_the_same_are_held_out_at_every_size(dataset):
    assert captions(load_dataset("glyphs", image_size=24), "test") == captions(dataset, "test")


def test_a_glyph_is_black_on_white_and_stands_on_one_line():
    pictures = glyphs.draw([Glyph("H", "sans"), Glyph("p", "sans"), Glyph("Ǻ", "bold serif"), Glyph("I", "mono")], 24)
    ink = pictures < 128
    rows = [np.flatnonzero(one.any(1)) for one in ink]
    line = round(glyphs._BASE_LINE * 24)
    assert abs(rows[0][-1] + 1 - line) <= 1
    assert rows[1][-1] + 1 > line + 2
    # None touches the edge, the tallest among them.
    assert (pictures[:, [0, -1]] == 255).all()
    assert (pictures[:, :, [0, -1]] == 255).all()
    # A capital is 0.73 em high, which its stem is.
    assert abs(len(rows[0]) - 0.73 * glyphs._EM * 24) <= 1


def test_no_glyph_of_all_is_cut_off_but_the_widest():
    characters = glyphs.shared_characters()
    assert len(characters) > 1200
    pictures = glyphs.draw(
        [Glyph(character, style) for style in ("sans", "bold serif") for character in characters], 32
    )
    cut = (pictures[:, [0, -1]] < 128).any((1, 2)) | (pictures[:, :, [0, -1]] < 128).any((1, 2))
    assert cut.mean() < 0.02


def test_one_answer_of_several_captions_stays_in_one_part():
    """`A` and Alpha are one picture."""
    characters = ["A", "\N{GREEK CAPITAL LETTER ALPHA}", "\N{CYRILLIC CAPITAL LETTER A}", "B", "Ж", "ж"]
    drawn = [Glyph(character, style) for style in STYLES for character in characters]
    pictures = glyphs.draw(drawn, 16)
    answers = np.unique(pictures.reshape(len(pictures), -1), axis=0, return_inverse=True)[1].reshape(-1)
    held = glyphs.held_out(drawn, answers)
    for answer in np.unique(answers):
        assert len(set(held[answers == answer])) == 1
    assert np.array_equal(answers[0::6], answers[1::6])
    # A and Alpha share theirs in each of twelve styles, the Cyrillic A in the eight without serifs.
    assert glyphs.ceiling(answers).startswith("32 of 72 captions have the picture of another")
    assert "72.2% at most" in glyphs.ceiling(answers)


def test_colours_are_those_of_the_caption():
    grey = torch.tensor([[[[0, 255], [255, 0]]]], dtype=torch.uint8)
    pictures, told = glyphs.coloured(grey.expand(40, -1, -1, -1), [f"sans, letter {k}" for k in range(40)])
    for picture, caption in zip(pictures, told, strict=True):
        ink, ground = caption.split(", ")[-1].split(" on ")
        assert ink != ground
        assert tuple(picture[:, 0, 0].tolist()) == glyphs.COLOURS[ink]
        assert tuple(picture[:, 0, 1].tolist()) == glyphs.COLOURS[ground]
    assert len({caption.split(", ")[-1] for caption in told}) > 15


def test_sizes_out_of_range_are_refused():
    with pytest.raises(UserError, match="drawn as squares of 8 to 256 pixels"):
        load_dataset("glyphs", image_size=4)


def test_captions_are_the_style_and_the_name():
    assert Glyph("é", "bold oblique sans").caption == "bold oblique sans, latin small letter e with acute"
    assert unicodedata.name("é") == "LATIN SMALL LETTER E WITH ACUTE"
