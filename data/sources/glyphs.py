r"""Glyphs: letters of the fonts that come with matplotlib, with captions whose truth is known.

DejaVu Sans, Sans Mono and Serif have four styles each. A caption is the style's words and the Unicode name:

    bold oblique sans, latin small letter e with acute

`glyphs` has the Latin letters A to Z, small and capital, plain and with those accents that ten or more of them have,
432 characters in 12 styles. Tested on are compositions: every letter, accent and style is trained on, and pairs of
them, never the three together. `glyphs_all` has all Latin, Greek and Cyrillic letters and digits that the twelve fonts
share. There renderings of different names may be the same picture, as of A, Alpha and the Cyrillic A: such are one
answer with several captions, kept in one part.

Pictures are grey, white paper and black ink, or, with three channels, of an ink and a ground that the caption names.
They are drawn four times as large and averaged, at one size and base line for all.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from hashlib import blake2b
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data.sources.reading import Reading
from score_sde.data.split import Parts

STYLES = {
    "sans": "DejaVuSans",
    "bold sans": "DejaVuSans-Bold",
    "oblique sans": "DejaVuSans-Oblique",
    "bold oblique sans": "DejaVuSans-BoldOblique",
    "mono": "DejaVuSansMono",
    "bold mono": "DejaVuSansMono-Bold",
    "oblique mono": "DejaVuSansMono-Oblique",
    "bold oblique mono": "DejaVuSansMono-BoldOblique",
    "serif": "DejaVuSerif",
    "bold serif": "DejaVuSerif-Bold",
    "italic serif": "DejaVuSerif-Italic",
    "bold italic serif": "DejaVuSerif-BoldItalic",
}
# Ink and ground of coloured pictures, red, green and blue.
COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "red": (200, 30, 30),
    "green": (20, 130, 50),
    "blue": (30, 60, 200),
    "yellow": (245, 215, 60),
}
SIZE, LEVELS = 16, 256
_LEAST, _MOST = 8, 256
_OVERSAMPLED = 4
# In parts of the height: an em, and how far from the top letters stand. Accents and tails then fit.
_EM, _BASE_LINE = 0.68, 0.79
_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "DIGIT")
_COMPOSED = re.compile(r"LATIN (CAPITAL|SMALL) LETTER ([A-Z])(?: WITH (.+))?$")
# Accents that fewer letters have are left out of the subset.
_LETTERS_OF_AN_ACCENT = 10
# One of so many compositions is tested on.
_ONE_OF = 10


class Glyph(NamedTuple):
    """A glyph is a character in a style.

    Attributes:
        character: the character.
        style: a key of `STYLES`.
    """

    character: str
    style: str

    @property
    def caption(self) -> str:
        """The caption is the style's words and the name of the character."""
        return f"{self.style}, {unicodedata.name(self.character).lower()}"


def load_glyphs(reading: Reading, everything: bool = False) -> Parts:
    """Draw glyphs `(N, 1, size, size)`, or with three channels, uint8, with their captions.

    Args:
        reading: says the size, 16 if it does not, and the channels, one if it does not.
        everything: whether to draw all characters, or the Latin letters with their accents.

    Raises:
        UserError: the size is out of range, or pictures are not to be square.
    """
    size = reading.image_size or SIZE
    if not _LEAST <= size <= _MOST or reading.image_width not in (None, size):
        raise UserError(f"glyphs are drawn as squares of {_LEAST} to {_MOST} pixels, not as {reading.size}")
    characters = shared_characters()
    chosen = characters if everything else compositions(characters)
    glyphs = [Glyph(character, style) for style in STYLES for character in chosen]
    pictures = draw(glyphs, size)
    answers = np.unique(pictures.reshape(len(pictures), -1), axis=0, return_inverse=True)[1].reshape(-1)
    tested = torch.from_numpy(held_out(glyphs, answers))
    examples, captions = torch.from_numpy(pictures)[:, None], [glyph.caption for glyph in glyphs]
    if reading.num_channels == 3:
        examples, captions = coloured(examples, captions)
    texts = {
        part: tuple(caption for caption, of_part in zip(captions, rows.tolist(), strict=True) if of_part)
        for part, rows in (("train", ~tested), ("test", tested))
    }
    notes = (ceiling(answers),) if everything and reading.num_channels != 3 else ()
    return Parts(examples[~tested], examples[tested], LEVELS, notes=notes, captions=texts)  # type: ignore[arg-type]


def shared_characters() -> list[str]:
    """Return the letters and digits that all fonts have, in the order of Unicode."""
    from matplotlib.ft2font import FT2Font

    shared = set.intersection(*(set(FT2Font(str(_font(style))).get_charmap()) for style in STYLES))
    names = ((chr(code), unicodedata.name(chr(code), "")) for code in sorted(shared))
    return [
        character
        for character, name in names
        if name.split(" ")[0] in _SCRIPTS and unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo", "Nd")
    ]


def compositions(characters: list[str]) -> list[str]:
    """Return the letters A to Z among characters, plain, and with accents that many of them have."""
    parts = {character: _COMPOSED.match(unicodedata.name(character)) for character in characters}
    accents = Counter(found[3] for found in parts.values() if found)
    return [c for c, found in parts.items() if found and accents[found[3]] >= _LETTERS_OF_AN_ACCENT]


def draw(glyphs: list[Glyph], size: int) -> np.ndarray:
    """Return the pictures of glyphs, black on white, uint8 `(N, size, size)`."""
    from PIL import Image, ImageDraw, ImageFont

    large = size * _OVERSAMPLED
    fonts = {
        style: ImageFont.truetype(str(_font(style)), _EM * large, layout_engine=ImageFont.Layout.BASIC)
        for style in {glyph.style for glyph in glyphs}
    }
    pictures = np.empty((len(glyphs), size, size), np.uint8)
    for picture, glyph in zip(pictures, glyphs, strict=True):
        canvas = Image.new("L", (large, large), 255)
        place = (large / 2, _BASE_LINE * large)
        ImageDraw.Draw(canvas).text(place, glyph.character, font=fonts[glyph.style], fill=0, anchor="ms")
        picture[:] = np.asarray(canvas.reduce(_OVERSAMPLED))
    return pictures


def held_out(glyphs: list[Glyph], answers: np.ndarray) -> np.ndarray:
    """Return which glyphs are tested on, `(N,)`, bool: one of ten, all of an answer or none; the same at every size
    from 16 on.

    A glyph is tested on only if its style, its letter and its accent, where it has one, are trained on elsewhere.
    """
    first: dict[int, Glyph] = {}
    plain = set()
    for glyph, answer in zip(glyphs, answers.tolist(), strict=True):
        first.setdefault(answer, glyph)
        if is_plain(glyph.character):
            plain.add(answer)
    return np.array(
        [answer not in plain and _digest(first[answer].caption) % _ONE_OF == 0 for answer in answers.tolist()]
    )


def is_plain(character: str) -> bool:
    """Return whether a character is one of the letters A to Z without accents."""
    found = _COMPOSED.match(unicodedata.name(character))
    return found is not None and found[3] is None


def ceiling(answers: np.ndarray) -> str:
    """Say how many captions share their picture with another, and how many could be retrieved by their picture."""
    _, counts = np.unique(answers, return_counts=True)
    shared = int(counts[counts > 1].sum())
    return (
        f"{shared} of {len(answers)} captions have the picture of another: of all captions, pictures can tell "
        f"{len(counts) / len(answers):.1%} at most"
    )


def coloured(pictures: Tensor, captions: list[str]) -> tuple[Tensor, list[str]]:
    """Return grey pictures `(N, 1, size, size)` in two colours, uint8 `(N, 3, size, size)`, and captions that name
    them, drawn by the caption."""
    pairs = list(permutations(COLOURS, 2))
    chosen = [pairs[_digest(caption) % len(pairs)] for caption in captions]
    of_ink, of_ground = (
        torch.tensor([COLOURS[pair[k]] for pair in chosen], dtype=torch.float64)[:, :, None, None] for k in range(2)
    )
    paper = pictures.double() / 255
    told = [f"{caption}, {ink} on {ground}" for caption, (ink, ground) in zip(captions, chosen, strict=True)]
    return (paper * of_ground + (1 - paper) * of_ink).round().to(torch.uint8), told


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big")


def _font(style: str) -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path(), "fonts", "ttf", f"{STYLES[style]}.ttf")
