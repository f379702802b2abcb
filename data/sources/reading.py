"""How users' data are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from score_sde.data.sources.picture_format import WHITE, Resize


@dataclass(frozen=True)
class Reading:
    """A reading says how users' data are read.

    Attributes:
        image_size: height that pictures are brought to, and width if no other is given; None keeps both, which must be
            those of all.
        num_channels: 1, grey, or 3, colour; None keeps the channels, and reads image files in colour.
        levels: number of levels of brightness. NumPy arrays hold the levels as they are; others have 256, which are
            reduced to so many.
        cache: folder where prepared examples are kept.
        background: red, green and blue behind what is transparent, 0 to 255.
        crop: side of the square that is cut out of the middle of images; the largest possible if None.
        test_share: the share of the examples that is set aside to test on, if no part of them is for that.
        split_seed: decides which examples are set aside to test on.
        validation: examples to set aside for making choices, if no part of them is that: below 1 their share, or their
            number.
        fold: decides which examples are set aside for choices.
        skip_damaged: leave out pictures that cannot be read, instead of refusing.
        image_width: width that pictures are brought to; None for the height.
        resize: how pictures are brought to a size; see `data.sources.picture`.
        missing: whether numbers without levels may be missing, as NaN; they are refused otherwise.
        condition: the names of what examples are conditioned on: arrays of a file, or columns of a table.
    """

    image_size: int | None
    num_channels: int | None
    levels: int
    cache: Path
    background: tuple[int, int, int] = WHITE
    crop: int | None = None
    test_share: float = 0.1
    split_seed: int = 0
    validation: float = 0
    fold: int = 0
    skip_damaged: bool = False
    image_width: int | None = None
    resize: Resize = "crop"
    missing: bool = False
    condition: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that pictures are brought to are None if pictures keep theirs."""
        return None if self.image_size is None else (self.image_size, self.image_width or self.image_size)
