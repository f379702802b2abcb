"""What pictures are made into."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from score_sde.common.errors import UserError

WHITE = (255, 255, 255)
# Ways to a size; see `data.sources.resizing`.
Resize = Literal["crop", "pad", "fit", "none"]
RESIZES: tuple[Resize, ...] = get_args(Resize)

_MODES = {1: "L", 3: "RGB"}


class Unreadable(ValueError):  # noqa: N818
    """The picture cannot be read; the message says what is wrong with it, in a few words."""


class PictureFormat(NamedTuple):
    """A picture format says what pictures are made into.

    Attributes:
        size: height in pixels, and width if no other is given; None keeps both.
        channels: number of channels: 1, grey, or 3, colour.
        levels: number of levels of brightness, at most 256.
        background: red, green and blue behind what is transparent, 0 to 255.
        crop: side of the square that is cut out of the middle first; the largest possible if None.
        width: width in pixels; None for the height.
        resize: how pictures are brought to that size.
    """

    size: int | None
    channels: int = 3
    levels: int = 256
    background: tuple[int, int, int] = WHITE
    crop: int | None = None
    width: int | None = None
    resize: Resize = "crop"

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of the pictures are None if they keep theirs."""
        return None if self.size is None else (self.size, self.width or self.size)

    @property
    def mode(self) -> str:
        """The mode is Pillow's name for these channels."""
        return _MODES[self.channels]

    def check(self) -> None:
        """Raise UserError if pictures cannot have this format."""
        if self.channels not in _MODES:
            raise UserError(f"pictures have 1 channel or 3, not num_channels={self.channels}")
        if not 2 <= self.levels <= 256:
            raise UserError(f"pictures have 2 to 256 levels, not levels={self.levels}")
        if self.size is not None and self.size < 1:
            raise UserError(f"pictures have a size of at least 1, not image_size={self.size}")
        if self.width is not None and (self.size is None or self.width < 1):
            raise UserError(f"image_width={self.width} is at least 1, and goes with image_size, the height")
