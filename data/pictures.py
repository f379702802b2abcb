"""Pictures that are read once, and kept as one array that is mapped into memory: a dataset may be larger than that.

Each picture is turned upright, cropped to the largest square in its middle, resized, made grey or coloured, and brought
to the number of levels asked for.

    <cache>/train.npy, test.npy     (N, C, H, W) uint8
    <cache>/about.json              classes, and the pictures that could not be read; written last
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from data.split import Parts, split
from errors import UserError
from files import write_atomically
from interruption import keeping
from progress import Progress

# Read at once.
_CHUNK = 512
_NUM_NAMED = 3
# Pillow's modes with more than 8 bits a channel, which it does not convert, but cuts off.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_MODES = {1: "L", 3: "RGB"}


class Pictures(NamedTuple):
    """Pictures, each opened when it is needed.

    Attributes:
        places: where each is, for complaints.
        open: opens the one with this number.
        version: changes whenever a picture does.
        classes: of each `(N,)`, int64, or None.
        class_names: see `Parts`.
    """

    places: Sequence[str]
    open: Callable[[int], Image.Image]
    version: object
    classes: Tensor | None = None
    class_names: tuple[str, ...] = ()


class PictureFormat(NamedTuple):
    """What pictures are made into.

    Attributes:
        size: height and width.
        channels: 1, grey, or 3, colour.
        levels: of brightness, at most 256.
        crop: side of the square that is cut out of the middle; the largest possible if None.
    """

    size: int
    channels: int = 3
    levels: int = 256
    crop: int | None = None


def prepare(
    train: Pictures,
    test: Pictures | None,
    form: PictureFormat,
    cache: Path,
    *,
    test_share: float = 0.0,
    split_seed: int = 0,
    skip_damaged: bool = False,
) -> Parts:
    """Read pictures, or find them as they were read before.

    Args:
        train: the pictures.
        test: those to test on; if there are none, `test_share` of the others.
        form: what they are made into.
        cache: folder of all that was prepared.
        test_share: between 0 and 1.
        split_seed: decides which.
        skip_damaged: leave out pictures that cannot be read, instead of refusing.

    Raises:
        UserError: pictures cannot be read, or the array cannot be written.
    """
    if form.channels not in _MODES:
        raise UserError(f"pictures have 1 channel or 3, not data.num_channels={form.channels}")
    if not 2 <= form.levels <= 256:
        raise UserError(f"pictures have 2 to 256 levels, not data.levels={form.levels}")
    identity = [train.version, test and test.version, *form, test_share, split_seed, skip_damaged]
    folder = cache / sha256(json.dumps(identity).encode()).hexdigest()[:16]
    if not (folder / "about.json").exists():
        with keeping(lambda: "stopped while reading pictures: none are kept; repeat the command to read them"):
            _prepare(train, test, form, folder, test_share, split_seed, skip_damaged)
    try:
        about = json.loads((folder / "about.json").read_text())
        train_array, test_array = (
            torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in ("train", "test")
        )
        classes, test_classes = (None if row is None else torch.tensor(row) for row in about["classes"])
        names, note = tuple(about["class_names"]), about["note"]
        return Parts(train_array, test_array, form.levels, classes, test_classes, names, note)
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder}: {error}; remove it, and it is made again") from error


def _prepare(
    train: Pictures,
    test: Pictures | None,
    form: PictureFormat,
    folder: Path,
    test_share: float,
    split_seed: int,
    skip_damaged: bool,
) -> None:
    chosen: dict[str, tuple[Pictures, Sequence[int]]]
    if test is None:
        rest, taken = split(len(train.places), test_share, split_seed, train.classes, "data.test_share")
        chosen = {"train": (train, rest.tolist()), "test": (train, taken.tolist())}
    else:
        chosen = {"train": (train, range(len(train.places))), "test": (test, range(len(test.places)))}
    damaged: dict[str, str] = {}
    classes = []
    for name, (pictures, rows) in chosen.items():
        kept = _write(pictures, rows, form, folder / f"{name}.npy", name, damaged, skip_damaged)
        classes.append(None if pictures.classes is None else pictures.classes[kept].tolist())
        if name == "train" and not kept:
            raise UserError(f"none of the {len(rows)} training pictures can be read; {_list(damaged)}")
    note = f"skipped {len(damaged)} pictures that cannot be read: {_list(damaged)}" if damaged else ""
    about = {"classes": classes, "class_names": train.class_names, "note": note}
    with write_atomically(folder / "about.json") as temporary:
        temporary.write_text(json.dumps(about))


def _write(
    pictures: Pictures,
    rows: Sequence[int],
    form: PictureFormat,
    path: Path,
    name: str,
    damaged: dict[str, str],
    skip_damaged: bool,
) -> list[int]:
    """Write the array of these pictures; returns the rows that could be read, and adds the others to `damaged`."""
    kept: list[int] = []
    with write_atomically(path) as temporary:
        shape = (len(rows), form.channels, form.size, form.size)
        # Nothing cannot be mapped.
        array = open_memmap(temporary, "w+", np.uint8, shape) if rows else np.empty(shape, np.uint8)
        _reserve(temporary)
        # Closed at once, should a signal come: its threads and its bar end before anything is said.
        with closing(_read_all(pictures, rows, form, name)) as found:
            for row, picture in found:
                if isinstance(picture, str):
                    damaged[pictures.places[row]] = picture
                else:
                    array[len(kept)] = picture
                    kept.append(row)
        if damaged and not skip_damaged:
            raise UserError(
                f"{len(damaged)} of {len(rows)} {name} pictures cannot be read: {_list(damaged)}; remove them, or "
                "leave them out: --config.data.damaged=skip"
            )
        if len(kept) < len(rows) or not rows:
            np.save(temporary, array[: len(kept)].copy())
        elif isinstance(array, np.memmap):
            array.flush()
    return kept


def _reserve(path: Path) -> None:
    """See that there is room for all of a file: a full disk, met in mapped memory, would kill the process."""
    if hasattr(os, "posix_fallocate") and path.stat().st_size:
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _read_all(
    pictures: Pictures, rows: Sequence[int], form: PictureFormat, name: str
) -> Generator[tuple[int, np.ndarray | str], None, None]:
    """Each row, with its picture or what is wrong with it."""

    def read(row: int) -> np.ndarray | str:
        try:
            with pictures.open(row) as picture:
                return convert(picture, form)
        except MemoryError:
            raise
        except UnidentifiedImageError:
            return "not a picture"
        except Exception as error:  # damaged pictures fail in many ways
            return str(error) or type(error).__name__

    with ThreadPoolExecutor() as pool, Progress(f"reading {name} pictures", len(rows), "picture") as bar:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            for found in zip(chunk, pool.map(read, chunk), strict=True):
                yield found
                bar.update()


def convert(picture: Image.Image, form: PictureFormat) -> np.ndarray:
    """One picture as `(C, H, W)` uint8.

    Raises:
        ValueError: it has more than 8 bits a channel.
    """
    if picture.mode in _DEEP_MODES:
        raise ValueError("it has more than 8 bits a channel")
    upright = ImageOps.exif_transpose(picture)
    width, height = upright.size
    side = min(width, height, form.crop or max(width, height))
    left, top = (width - side) // 2, (height - side) // 2
    square = upright.convert(_MODES[form.channels]).crop((left, top, left + side, top + side))
    if side != form.size:
        square = square.resize((form.size, form.size), Image.Resampling.LANCZOS)
    array = np.asarray(square).reshape(form.size, form.size, form.channels).transpose(2, 0, 1)
    return array if form.levels == 256 else (array.astype(np.uint16) * form.levels // 256).astype(np.uint8)


def from_array(array: np.ndarray, place: str, version: Any, classes: Tensor | None) -> Pictures:
    """Pictures `(N, C, H, W)` uint8 that are in memory."""

    def picture(row: int) -> Image.Image:
        pixels = array[row].transpose(1, 2, 0)
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))

    return Pictures([f"{place}[{row}]" for row in range(len(array))], picture, version, classes)


def _list(damaged: dict[str, str]) -> str:
    named = [f"{place} ({reason})" for place, reason in list(damaged.items())[:_NUM_NAMED]]
    return ", ".join(named) + (", …" if len(damaged) > _NUM_NAMED else "")


def read_picture(path: Path, form: PictureFormat) -> Tensor:
    """One picture from a file, `(C, H, W)` levels, uint8.

    Raises:
        UserError: there is no such file, or it is no picture.
    """
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(convert(picture, form).copy())
    except FileNotFoundError:
        raise UserError(f"there is no picture {path}") from None
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a picture") from None
    except Exception as error:  # damaged pictures fail in many ways
        raise UserError(f"cannot read the picture {path}: {error}") from error
