r"""One picture, as a file has it, made into an array of levels.

It is turned upright, laid on a background where it is transparent,

    colour = a c + (1 - a) b,           a its opacity, c its colour, b the background's

made grey or coloured, brought to a size, and to the number of levels asked for. A size `H x W` is reached from `h x w`
in one of these ways; all but the last scale by Lanczos's filter:

    crop    by s = max(H / h, W / w), so that it covers the size, of which the middle is cut
    pad     by s = min(H / h, W / w), so that it lies within, in the middle of the background
    fit     by H / h and W / w: stretched
    none    not at all; it must have this size
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import at_home
from score_sde.data.words import listed

if TYPE_CHECKING:
    from PIL import Image

# Pillow's modes with more than 8 bits a channel, which it does not convert, but cuts off.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_MODES = {1: "L", 3: "RGB"}
WHITE = (255, 255, 255)
Resize = Literal["crop", "pad", "fit", "none"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
# A picture of more pixels, or a member of an archive of more bytes, is taken for an attack or a mistake.
MAX_PIXELS = 89_478_485
MAX_BYTES = 2**30
# Photographs of these formats have previews and depths in further frames.
_ONE_PICTURE = ("MPO", "ICO", "ICNS")


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


class Converted(NamedTuple):
    """Holds a picture that was read.

    Attributes:
        levels: the picture's levels, `(C, H, W)` uint8.
        transparent: whether the file was transparent anywhere.
        more_frames: whether the file has further frames, which are not read.
        original: its height and width, upright, before it was brought to a size.
        changes: what was done for that, and loses or invents something: cropped, padded, stretched, enlarged.
    """

    levels: np.ndarray
    transparent: bool
    more_frames: bool
    original: tuple[int, int] = (0, 0)
    changes: tuple[str, ...] = ()


def read(opener: Callable[[], Image.Image], form: PictureFormat) -> Converted | str:
    """Open and convert a picture, within `library_silenced`; return what is wrong with it if that fails."""
    from PIL import Image, UnidentifiedImageError

    try:
        with opener() as picture:
            return convert(picture, form)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return "not a picture"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"it has more than {MAX_PIXELS:,} pixels"
    except Exception as error:  # damaged pictures fail in many ways
        return _reason(error)


class Report:
    """Collects what is noticed of pictures while they are read, each with its place.

    Attributes:
        damaged: what is wrong with each picture that cannot be read.
        transparent: pictures that were laid on the background in places.
        more_frames: pictures with further frames, which are not read.
        changes: how many pictures were cropped, padded, stretched or enlarged.
        sizes: how many of these there were of each height and width, before.
    """

    def __init__(self) -> None:
        self.damaged: dict[str, str] = {}
        self.transparent: list[str] = []
        self.more_frames: list[str] = []
        self.changes: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.count = 0
        self.shape = (0, 0)

    def add(self, place: str, picture: Converted | str) -> None:
        """Note what there is to say of one picture."""
        if isinstance(picture, str):
            self.damaged[place] = picture
            return
        if picture.transparent:
            self.transparent.append(place)
        if picture.more_frames:
            self.more_frames.append(place)
        self.count += 1
        self.shape = picture.levels.shape[1], picture.levels.shape[2]
        if picture.changes:
            self.changes.update(picture.changes)
            self.sizes[picture.original] += 1

    def notes(self, background: tuple[int, int, int]) -> list[str]:
        """Return a line for each kind of thing that was noticed."""
        notes = []
        if self.damaged:
            notes.append(f"skipped {len(self.damaged)} pictures that cannot be read: {self.reasons()}")
        if self.transparent:
            colour = "#{:02x}{:02x}{:02x}".format(*background)
            notes.append(
                f"{len(self.transparent)} pictures are transparent in places, and were laid on {colour} "
                f"(background): {listed(self.transparent)}"
            )
        if self.more_frames:
            notes.append(
                f"{len(self.more_frames)} files have several frames, of which the first was read: "
                f"{listed(self.more_frames)}"
            )
        if self.changes:
            what = ", ".join(f"{number} {change}" for change, number in self.changes.most_common())
            sizes = listed(f"{height} x {width}" for (height, width), _ in self.sizes.most_common())
            height, width = self.shape
            notes.append(
                f"of {self.count} pictures, brought to {height} x {width} (height x width), {what}; these were {sizes}"
            )
        return notes

    def reasons(self) -> str:
        """List the damaged pictures, with what is wrong with them."""
        return listed(f"{place} ({reason})" for place, reason in self.damaged.items())


def read_picture(path: Path, form: PictureFormat, report: Report) -> Tensor:
    """Read one picture from a file, `(C, H, W)` levels, uint8, and add what there is to say of it to the report.

    Raises:
        UserError: there is no such file, or it is no picture.
    """
    from PIL import Image

    path = at_home(path)
    if not path.exists():
        raise UserError(f"there is no picture {path}")
    with library_silenced():
        found = read(lambda: Image.open(path), form)
    if isinstance(found, str):
        raise UserError(f"{path} cannot be read: {found}; give a PNG or JPEG")
    report.add(str(path), found)
    return torch.from_numpy(found.levels.copy())


@contextmanager
def library_silenced() -> Iterator[None]:
    """Hide Pillow's warnings in the block, in all threads, but make that of a picture of too many pixels an error."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def convert(picture: Image.Image, form: PictureFormat) -> Converted:
    """Convert one picture to levels.

    Raises:
        Unreadable: it has more than 8 bits a channel, or too many pixels.
    """
    from PIL import ImageOps

    if picture.width * picture.height > MAX_PIXELS:
        raise Unreadable(f"it has more than {MAX_PIXELS:,} pixels")
    if _is_deep(picture):
        raise Unreadable("it has more than 8 bits a channel")
    more_frames = picture.format not in _ONE_PICTURE and getattr(picture, "n_frames", 1) > 1
    upright = ImageOps.exif_transpose(picture)
    transparent = upright.has_transparency_data and _opacity(upright).min() < 255
    width, height = upright.size
    cut = _middle(upright, form)
    if transparent:
        cut = _on_background(cut, form.background)
    cut = cut.convert(_MODES[form.channels])
    brought, changes = _resized(cut, form)
    if cut.size != upright.size:
        changes = ("cropped", *changes)
    array = np.asarray(brought).reshape(brought.height, brought.width, form.channels).transpose(2, 0, 1)
    if form.levels != 256:
        array = (array.astype(np.uint16) * form.levels // 256).astype(np.uint8)
    return Converted(array, bool(transparent), more_frames, (height, width), changes)


def _middle(picture: Image.Image, form: PictureFormat) -> Image.Image:
    """Return the middle of a picture that has the aspect asked for, if it is to be cropped; else all of it."""
    width, height = picture.size
    if form.crop is not None:
        width, height = min(width, height, form.crop), min(width, height, form.crop)
    if form.resize == "crop" and form.shape is not None:
        wanted_height, wanted_width = form.shape
        if width * wanted_height > height * wanted_width:
            width = max(1, round(height * wanted_width / wanted_height))
        else:
            height = max(1, round(width * wanted_height / wanted_width))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _resized(picture: Image.Image, form: PictureFormat) -> tuple[Image.Image, tuple[str, ...]]:
    """Bring a picture, which is cut already, to the size asked for; return it, and what was done.

    Raises:
        Unreadable: it has another size, and is not to be resized.
    """
    from PIL import Image

    if form.shape is None or picture.size == form.shape[::-1]:
        return picture, ()
    height, width = form.shape
    if form.resize == "none":
        raise Unreadable(f"it is {picture.height} x {picture.width}, not {height} x {width}")
    within = (width, height)
    if form.resize == "pad":
        scale = min(height / picture.height, width / picture.width)
        within = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    enlarged = ("enlarged",) if within[0] > picture.width or within[1] > picture.height else ()
    stretched = form.resize == "fit" and picture.width * height != picture.height * width
    if within != picture.size:
        picture = picture.resize(within, Image.Resampling.LANCZOS)
    if within == (width, height):
        return picture, (("stretched",) if stretched else ()) + enlarged
    behind = Image.new("RGB", (width, height), form.background).convert(picture.mode)
    behind.paste(picture, ((width - within[0]) // 2, (height - within[1]) // 2))
    return behind, ("padded", *enlarged)


def background(name: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a colour given as a name such as white, or as `#ffffff`.

    Raises:
        UserError: there is no such colour.
    """
    if name == "white":
        return WHITE  # without Pillow, which only pictures need
    from PIL import ImageColor

    try:
        colour = ImageColor.getrgb(name)
    except ValueError:
        raise UserError(f"a background is a colour such as white, grey or #ffffff, not {name!r}") from None
    if len(colour) != 3:
        raise UserError(f"a background cannot be transparent itself, as {name!r} is")
    return colour


def _is_deep(picture: Image.Image) -> bool:
    """Return whether channels have more than 8 bits, some of which Pillow would drop from coloured pictures unsaid."""
    if picture.format == "JPEG2000":
        return _jpeg_2000_bits(picture) > 8
    stored = [tile[3] for tile in getattr(picture, "tile", []) if len(tile) > 3]
    if picture.format == "PPM" and any(isinstance(how, tuple) and how[-1] > 255 for how in stored):
        return True
    # The 16 bits of BGR;16 are those of all three channels.
    deep = any(bits in str(how) for how in stored for bits in (";16", ";32") if "BGR;16" not in str(how))
    return picture.mode in _DEEP_MODES or deep


def _jpeg_2000_bits(picture: Image.Image) -> int:
    """Return the bits of the deepest channel, as the head of the code says (ISO 15444-1, A.5.1); 0 without a head."""
    file = getattr(picture, "fp", None)
    if file is None:
        return 0
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    # Start of code, and of its sizes; then 36 bytes of sizes, and how many channels there are, of 3 bytes each.
    start = content.find(b"\xff\x4f\xff\x51") + 4
    count = int.from_bytes(content[start + 36 : start + 38], "big")
    depths = content[start + 38 : start + 38 + 3 * count : 3]
    return max(((depth & 127) + 1 for depth in depths), default=0)


def _reason(error: Exception) -> str:
    """Say what is wrong with a picture; where the library speaks of its inside, only that it is damaged."""
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or " ".join(str(error).split()) or "it is damaged"
    return "it is damaged"


def _opacity(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGBA").getchannel("A"))


def _on_background(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    from PIL import Image

    pixels = np.asarray(picture.convert("RGBA")).astype(np.uint32)
    opacity = pixels[..., 3:]
    # Adding 127 before dividing by 255 rounds to the nearest.
    mixed = (pixels[..., :3] * opacity + np.array(colour, np.uint32) * (255 - opacity) + 127) // 255
    return Image.fromarray(mixed.astype(np.uint8))
