r"""Pictures of every mode and format, whole and broken, and what they are: read with PIL and NumPy alone.

colour = a c + (1 - a) b,   rounded to the nearest;   then grey or colour, upright, the middle square, the size,
level  = floor(value * levels / 256)
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageColor

# Pixels (H, W, …) are turned upright so, by the value of Exif's Orientation.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
_ORIENTATION = 0x0112


class Form(NamedTuple):
    """Pictures are brought to a form, as the options of `load_dataset` say."""

    image_size: int = 6
    num_channels: int = 3
    levels: int = 256
    background: str = "white"


class Made(NamedTuple):
    """A picture's file was made, with what has to come of it.

    Attributes:
        content: bytes of the file.
        suffix: suffix of the file's name.
        broken: whether it has to be refused: damaged, too large, or with more than 8 bits a channel.
        what: a description of the file.
    """

    content: bytes
    suffix: str
    broken: bool = False
    what: str = "plain"


class Truth(NamedTuple):
    """A file truly holds these levels `(C, H, W)`, perhaps something transparent, and perhaps more frames."""

    levels: np.ndarray
    transparent: bool
    frames: bool


def truth(content: bytes, form: Form) -> Truth:
    """Read a file independently of the program."""
    mode = "L" if form.num_channels == 1 else "RGB"
    with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as picture:
        # PIL warns of conversions that lose what is not lost here.
        warnings.simplefilter("ignore")
        frames = getattr(picture, "n_frames", 1) > 1
        picture.load()
        orientation = picture.getexif().get(_ORIENTATION, 1)
        transparent = False
        plain = picture.convert(mode)
        if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
            pixels = np.asarray(picture.convert("RGBA")).astype(np.float64)
            opacity = pixels[..., 3:] / 255
            transparent = bool((opacity < 1).any())
            mixed = np.rint(opacity * pixels[..., :3] + (1 - opacity) * ImageColor.getrgb(form.background))
            plain = Image.fromarray(mixed.astype(np.uint8)).convert(mode) if transparent else plain
    array = _TURNS.get(orientation, _TURNS[1])(np.asarray(plain))
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    array = array[top : top + side, left : left + side]
    return Truth(resized(array, form), transparent, frames)


def resized(array: np.ndarray, form: Form) -> np.ndarray:
    """Return square pixels `(H, H)` or `(H, H, 3)` as levels `(C, size, size)`."""
    if len(array) != form.image_size:
        picture = Image.fromarray(np.ascontiguousarray(array))
        array = np.asarray(picture.resize((form.image_size, form.image_size), Image.Resampling.LANCZOS))
    levels = np.floor(array.astype(np.float64) * form.levels / 256).astype(np.uint8)
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


def saved(picture: Image.Image, suffix: str, **options: Any) -> bytes:
    """Return the file of a picture."""
    buffer = io.BytesIO()
    formats = {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000", "pgm": "ppm", "apng": "png"}
    picture.save(buffer, formats.get(suffix, suffix), **options)
    return buffer.getvalue()


def plain(rng: Generator, suffix: str = "png", mode: str = "RGB") -> Made:
    """Make an ordinary picture, 2 to 9 pixels high and wide."""
    return Made(saved(_random(rng, mode), suffix), suffix)


def _random(rng: Generator, mode: str, height: int | None = None, width: int | None = None) -> Image.Image:
    shape = (height or int(rng.integers(2, 10)), width or int(rng.integers(2, 10)))
    if mode == "P":
        picture = Image.fromarray(rng.integers(0, 16, shape, dtype=np.uint8)).convert("P")
        picture.putpalette(rng.integers(0, 256, 48, dtype=np.uint8).tobytes())
        return picture
    if mode == "PA":
        picture = _random(rng, "P", *shape).convert("PA")
        picture.putalpha(_random(rng, "L", *shape))
        return picture
    if mode == "1":
        return Image.fromarray(rng.integers(0, 2, shape).astype(bool))
    if mode in ("I;16", "I", "F"):
        return Image.fromarray(rng.integers(0, 2**16, shape).astype({"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, shape[::-1], rng.bytes(bands * shape[0] * shape[1]))


def _png(colour_type: int, depth: int, height: int, width: int, rows: bytes) -> bytes:
    """Write a PNG file by hand, for what PIL does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _deep_png(rng: Generator) -> bytes:
    """Make a PNG file of 16 bits a channel: grey, colour, or either with opacity."""
    colour_type, channels = [(0, 1), (2, 3), (4, 2), (6, 4)][rng.integers(4)]
    height, width = 4, 5
    rows = b"".join(b"\0" + rng.bytes(2 * channels * width) for _ in range(height))
    return _png(colour_type, 16, height, width, rows)


def _bmp_565(rng: Generator) -> bytes:
    """Make a BMP file of 16 bits a pixel, for all three channels together."""
    height, width = 3, 4
    pixels = rng.bytes(2 * width * height)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    start = 14 + len(head) + len(masks)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + masks + pixels


def _deep_jp2(rng: Generator) -> bytes:
    """Make a JPEG 2000 file whose head says that its channels have 16 bits."""
    content = bytearray(saved(_random(rng, "RGB", 8, 8), "jp2"))
    at = content.index(b"ihdr")
    content[at + 14] = 15
    at = content.index(b"\xff\x51")
    for channel in range(3):
        content[at + 40 + 3 * channel] = 15
    return bytes(content)


def _turned(rng: Generator) -> Made:
    suffix = ["jpg", "png", "tiff", "webp"][rng.integers(4)]
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation = int(rng.integers(1, 9))
    options = {"lossless": True} if suffix == "webp" else {}
    picture = _random(rng, "RGB", 5, 8)
    return Made(saved(picture, suffix, exif=exif, **options), suffix, what=f"Orientation {orientation} in {suffix}")


def _moving(rng: Generator) -> Made:
    suffix = ["gif", "png", "apng", "webp", "tiff"][rng.integers(5)]
    frames = [_random(rng, "RGB", 6, 7) for _ in range(3)]
    return Made(saved(frames[0], suffix, save_all=True, append_images=frames[1:]), suffix, what=f"frames in {suffix}")


def _with_modes(mode: str, suffixes: str, **options: Any) -> Callable[[Generator], Made]:
    def make(rng: Generator) -> Made:
        suffix = str(rng.choice(suffixes.split()))
        lossless = {"lossless": True, "exact": True} if suffix == "webp" else {}
        return Made(saved(_random(rng, mode), suffix, **lossless, **options), suffix, what=f"{mode} in {suffix}")

    return make


def _with_transparent(mode: str) -> Callable[[Generator], Made]:
    """Make a picture with PNG's tRNS: a colour, a grey, an index or a list of opacities."""

    def make(rng: Generator) -> Made:
        picture = _random(rng, mode)
        first = picture.getpixel((0, 0))
        value = rng.bytes(16) if mode == "P" and rng.random() < 0.5 else first
        content = saved(picture, "png", transparency=value)
        return Made(content, "png", what=f"{mode} with tRNS {type(value).__name__}")

    return make


def _broken(what: str, make: Callable[[Generator], bytes], suffix: str) -> Callable[[Generator], Made]:
    return lambda rng: Made(make(rng), suffix, True, what)


def _truncated(rng: Generator) -> Made:
    suffix = ["png", "jpg", "gif", "tiff", "bmp", "webp", "ppm"][rng.integers(7)]
    content = saved(_random(rng, "RGB", 40, 40), suffix)
    return Made(content[: int(rng.uniform(0, 0.6) * len(content))], suffix, True, f"truncated {suffix}")


def _whole(what: str, make: Callable[[Generator], bytes], suffix: str) -> Callable[[Generator], Made]:
    return lambda rng: Made(make(rng), suffix, False, what)


UNUSUAL: tuple[Callable[[Generator], Made], ...] = (
    _with_modes("1", "png tiff gif bmp"),
    _with_modes("L", "png tiff gif bmp webp pgm tga jpg jp2"),
    _with_modes("LA", "png tiff webp tga jp2"),
    _with_modes("P", "png tiff gif bmp tga"),
    _with_modes("PA", "tiff"),
    _with_modes("RGB", "png tiff gif bmp webp ppm tga jpg jp2"),
    _with_modes("RGBA", "png tiff webp tga jp2 gif"),
    _with_modes("CMYK", "tiff jpg"),
    _with_modes("YCbCr", "tiff jpg"),
    _with_modes("RGB", "jpg", progressive=True),
    _with_modes("RGB", "tiff", compression="tiff_lzw"),
    _with_transparent("L"),
    _with_transparent("1"),
    _with_transparent("P"),
    _with_transparent("RGB"),
    *[_turned] * 4,
    *[_moving] * 3,
    _whole("1 x N", lambda rng: saved(_random(rng, "RGB", 1, int(rng.integers(2, 300))), "png"), "png"),
    _whole("N x 1", lambda rng: saved(_random(rng, "L", int(rng.integers(2, 300)), 1), "png"), "png"),
    _whole("JPEG called PNG", lambda rng: saved(_random(rng, "RGB"), "jpg"), "png"),
    _whole("PNG called JPEG", lambda rng: saved(_random(rng, "RGB"), "png"), "JPG"),
    _whole("BMP of 16 bits a pixel", _bmp_565, "bmp"),
    _whole("PPM of 16 levels", lambda rng: b"P6 4 3 15\n" + rng.integers(0, 16, 36, "u1").tobytes(), "ppm"),
    _whole("plain PGM", lambda rng: b"P2 3 2 255\n" + b" ".join(b"%d" % k for k in rng.integers(0, 256, 6)), "pgm"),
)
BROKEN: tuple[Callable[[Generator], Made], ...] = (
    _broken("16-bit PNG", _deep_png, "png"),
    _broken("I;16 in TIFF", lambda rng: saved(_random(rng, "I;16"), "tiff"), "tif"),
    _broken("I in TIFF", lambda rng: saved(_random(rng, "I"), "tiff"), "tiff"),
    _broken("F in TIFF", lambda rng: saved(_random(rng, "F"), "tiff"), "tiff"),
    _broken("16-bit PPM", lambda rng: b"P6 4 3 65535\n" + rng.bytes(72), "ppm"),
    _broken("16-bit PGM", lambda rng: b"P5 4 3 65535\n" + rng.bytes(24), "pgm"),
    _broken("10-bit PPM", lambda rng: b"P6 4 3 1023\n" + rng.integers(0, 1024, 36).astype(">u2").tobytes(), "ppm"),
    _broken("16-bit JPEG 2000", _deep_jp2, "jp2"),
    _broken("60000 x 60000", lambda rng: _png(2, 8, 60_000, 60_000, b""), "png"),
    _broken("12000 x 12000", lambda rng: _png(2, 8, 12_000, 12_000, b""), "png"),
    _broken("nothing", lambda rng: b"", "png"),
    _broken("text", lambda rng: b"This is not a picture.\n" * 20, "png"),
    _broken("noise", lambda rng: rng.bytes(200), "jpg"),
    _broken("a web page", lambda rng: b"<!DOCTYPE html><html><body>404</body></html>", "jpeg"),
    _broken("only a head", lambda rng: saved(_random(rng, "RGB"), "png")[:33], "png"),
    *[_truncated] * 4,
)
