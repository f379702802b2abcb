r"""One picture, as a file has it, made into an array of levels.

It is turned upright, laid on a background where it is transparent,

    colour = a c + (1 - a) b,           a its opacity, c its colour, b the background's

made grey or coloured, brought to a size (see `data.sources.resizing`), and to the number of levels asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import at_home
from score_sde.data.sources.picture_format import WHITE, PictureFormat, Unreadable
from score_sde.data.sources.report import Report
from score_sde.data.sources.resizing import middle, resized

if TYPE_CHECKING:
    from PIL import Image

# Pillow's modes with more than 8 bits a channel, which it does not convert, but cuts off.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# A picture of more pixels, or a member of an archive of more bytes, is taken for an attack or a mistake.
MAX_PIXELS = 89_478_485
MAX_BYTES = 2**30
# Photographs of these formats have previews and depths in further frames.
_ONE_PICTURE = ("MPO", "ICO", "ICNS")


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
    cut = middle(upright, form)
    if transparent:
        cut = _on_background(cut, form.background)
    cut = cut.convert(form.mode)
    brought, changes = resized(cut, form)
    if cut.size != upright.size:
        changes = ("cropped", *changes)
    array = np.asarray(brought).reshape(brought.height, brought.width, form.channels).transpose(2, 0, 1)
    if form.levels != 256:
        array = (array.astype(np.uint16) * form.levels // 256).astype(np.uint8)
    return Converted(array, bool(transparent), more_frames, (height, width), changes)


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
