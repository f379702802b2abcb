"""Users' own data, by path: their kind is told from name and content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data.sources.arrays import read_numpy
from score_sde.data.sources.cifar10 import is_cifar10, read_cifar10
from score_sde.data.sources.classes import number_classes
from score_sde.data.sources.found import Arrays, Found, Pictures
from score_sde.data.sources.hugging_face import HUB, is_parquet, read_hugging_face
from score_sde.data.sources.idx import is_idx, read_idx_files
from score_sde.data.sources.image_files import count_unread, find_image_files
from score_sde.data.sources.picture import WHITE, PictureFormat
from score_sde.data.sources.pictures import prepare
from score_sde.data.split import Parts, split_by_name
from score_sde.data.words import PARTS, Part, listed

if TYPE_CHECKING:
    from PIL import Image

_NUMPY = (".npy", ".npz")
# Arrays whose highest level is below this have, probably, fewer levels than they may have.
_FEW = 128


@dataclass(frozen=True)
class Reading:
    """A reading says how users' data are read.

    Attributes:
        image_size: height and width to crop and resize to; None keeps them, which cannot be done with image files.
        num_channels: 1, grey, or 3, colour; None keeps the channels, and reads image files in colour.
        levels: number of levels of brightness. NumPy arrays hold the levels as they are; others have 256, which are
            reduced to so many.
        background: red, green and blue behind what is transparent, 0 to 255.
        crop: side of the square that is cut out of the middle of images; the largest possible if None.
        cache: folder where prepared pictures are kept.
        test_share: the share of the examples that is set aside to test on, if no part of them is for that.
        split_seed: decides which examples are set aside to test on.
        validation: examples to set aside for making choices, if no part of them is that: below 1 their share, or their
            number.
        fold: decides which examples are set aside for choices.
        skip_damaged: leave out pictures that cannot be read, instead of refusing.
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


def load_path(place: str, reading: Reading) -> Parts:
    """Load the data at a place.

    Args:
        place: a folder or zip archive of images; a `.npy` or `.npz` file; an IDX file or a folder of them; CIFAR-10's
            folder of batches; a parquet file, a folder of them, or `hf:` and the name of a Hugging Face dataset.
        reading: how the data are read.

    Raises:
        UserError: there is nothing there, it is damaged or of no kind named above, or its parts do not fit together.
    """
    if place.startswith(HUB):
        return load_found(read_hugging_face(place), place, reading)
    try:
        path = Path(place).expanduser()
        missing = not path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # no name of a file, or of a user
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no name of a file"
        raise UserError(f"there is no {place}, which path names: {reason}") from error
    if missing:
        raise UserError(f"there is no {place}, which path names")
    found = _read(path)
    if isinstance(found.parts["train"], Arrays):
        return _load_arrays(found, path, reading)
    return load_found(found, place, reading)


def load_found(found: Found, place: str, reading: Reading) -> Parts:
    """Load pictures that a reader has found, in the format asked for.

    Raises:
        UserError: no size is given, pictures are damaged, or there are too few.
    """
    if reading.image_size is None:
        raise UserError(f"pictures of {place} are resized: give their size, as in image_size=32")
    form = PictureFormat(
        reading.image_size, reading.num_channels or 3, reading.levels, reading.background, reading.crop
    )
    return _prepared(found, place, form, reading)


def _read(path: Path) -> Found:
    suffix = path.suffix.lower()
    if suffix in _NUMPY:
        return read_numpy(path)
    if is_idx(path) or (path.is_dir() and any(map(is_idx, path.iterdir()))):
        found = read_idx_files(path)
    elif is_cifar10(path):
        found = read_cifar10(path)
    elif is_parquet(path):
        found = read_hugging_face(str(path))
    elif path.is_dir() or suffix == ".zip":
        return find_image_files(path)
    else:
        raise UserError(
            f"{path} is none of a folder or zip of images, .npy, .npz, IDX (…idx3-ubyte, .gz), CIFAR-10's folder of "
            "batches, .parquet, or hf:NAME"
        )
    return replace(found, notes=(*found.notes, *(count_unread(path) if path.is_dir() else ())))


def _load_arrays(found: Found, path: Path, reading: Reading) -> Parts:
    """Load arrays as they are, if they have the format asked for; else they are resized like files."""
    arrays = {part: array for part, array in found.parts.items() if isinstance(array, Arrays)}
    as_levels = path.suffix.lower() in _NUMPY
    shape = arrays["train"].examples.shape[1:]
    for part, array in arrays.items():
        if array.examples.shape[1:] != shape:
            raise UserError(
                f"{array.where} has examples of shape {array.examples.shape[1:]}, but the training part {shape}: the "
                f"{part} part must be like it"
            )
    if len(shape) == 1:
        return _in_memory(found, arrays, None, str(path), reading)
    highest = {part: int(array.examples.max(initial=0)) for part, array in arrays.items()}
    for part, level in highest.items():
        if as_levels and level >= reading.levels:
            raise UserError(
                f"{arrays[part].where} has levels up to {level}: give levels={max(highest.values()) + 1} or more"
            )
    if as_levels and reading.levels == 256 and max(highest.values()) < _FEW:
        note = f"{path} has levels up to {max(highest.values())} only, of 256: if it has fewer, say so (levels)"
        found = replace(found, notes=(*found.notes, note))
    channels, *size = shape
    form = PictureFormat(reading.image_size or min(size), reading.num_channels or channels, reading.levels)
    if (form.size, form.size) == tuple(size) and form.channels == channels and (as_levels or reading.levels == 256):
        return _in_memory(found, arrays, reading.levels, str(path), reading)
    if as_levels and reading.levels != 256:
        raise UserError(
            f"{path} holds {reading.levels} levels as they are, which cannot be resized: leave out image_size"
        )
    if reading.image_size is None and len(set(size)) > 1:
        note = f"{path} has pictures of {size[0]} x {size[1]}, of which the middle {form.size} x {form.size} is read"
        found = replace(found, notes=(*found.notes, note))
    version = _stamps(path)
    pictures = {part: _as_pictures(array, [version, part]) for part, array in arrays.items()}
    return _prepared(replace(found, parts=pictures), str(path), form, reading)


def _as_pictures(array: Arrays, version: object) -> Pictures:
    """Return pictures that are in memory as ones that are opened like files."""
    from PIL import Image

    def picture(row: int) -> Image.Image:
        pixels = array.examples[row].transpose(1, 2, 0)
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))

    places = [f"{array.where}[{row}]" for row in range(len(array))]
    return Pictures(places, array.names, picture, version, array.classes)


def _in_memory(found: Found, arrays: Mapping[Part, Arrays], levels: int | None, place: str, reading: Reading) -> Parts:
    rows, notes = _membership(found, place, reading)
    examples = {
        part: torch.from_numpy(np.ascontiguousarray(arrays[source].examples[numbers.numpy()]))
        for part, (source, numbers) in rows.items()
    }
    return _assembled(found, rows, examples, levels, place, notes)


def _prepared(found: Found, place: str, form: PictureFormat, reading: Reading) -> Parts:
    rows, notes = _membership(found, place, reading)
    sources = {part: found.parts[source] for part, (source, _) in rows.items()}
    chosen = {
        part: (source, rows[part][1].tolist()) for part, source in sources.items() if isinstance(source, Pictures)
    }
    prepared = prepare(chosen, form, reading.cache, reading.skip_damaged)
    kept = {part: (source, torch.tensor(prepared.rows[part], dtype=torch.int64)) for part, (source, _) in rows.items()}
    return _assembled(found, kept, prepared.examples, form.levels, place, [*notes, *prepared.notes])


# For each part of the data, the part that a reader found it in, and its rows there.
_Rows = Mapping[Part, tuple[Part, Tensor]]


def _membership(found: Found, place: str, reading: Reading) -> tuple[_Rows, list[str]]:
    """Return the rows of each part, and notes; a test or validation part that is missing is taken from training."""
    notes = list(found.notes)
    rows: dict[Part, tuple[Part, Tensor]] = {
        part: (part, torch.arange(len(examples))) for part, examples in found.parts.items()
    }
    whole = found.parts["train"]
    names, classes, numbers = whole.names, whole.classes, rows["train"][1]
    wanted: tuple[tuple[Part, float, int, str], ...] = (
        ("test", reading.test_share, reading.split_seed, "test_share"),
        ("validation", reading.validation, reading.fold, "validation"),
    )
    for part, size, seed, key in wanted:
        if part in found.parts:
            if part == "validation" and size:
                count = len(found.parts[part])
                notes.append(f"{place} has a validation part of {count}, which is used instead of {key}={size:g}")
            continue
        chosen = numbers.tolist()
        of_chosen = None if classes is None else [classes[row] for row in chosen]
        rest, taken = split_by_name([names[row] for row in chosen], size, seed, of_chosen, part, key, place)
        rows[part] = ("train", numbers[taken])
        numbers = numbers[rest]
    rows["train"] = ("train", numbers)
    return {part: rows[part] for part in PARTS}, notes


def _assembled(
    found: Found,
    rows: _Rows,
    examples: Mapping[Part, Tensor],
    levels: int | None,
    place: str,
    notes: Sequence[str],
) -> Parts:
    """Put together the parts, with their classes."""
    named = {part: examples_of.classes for part, examples_of in found.parts.items()}
    class_names, numbers = number_classes(named, found.class_order, place)
    classes: dict[Part, Tensor | None] = {}
    for part, (source, kept) in rows.items():
        known = numbers[source]
        classes[part] = None if known is None else known[kept]
    if named["train"] is None and any(named.values()):
        unused = listed(part for part, names in named.items() if names)
        notes = [*notes, f"{place}: the training part has no classes, so those of the {unused} part are not used"]
    return Parts(
        examples["train"],
        examples["test"],
        levels,
        classes["train"],
        classes["test"],
        class_names,
        examples["validation"],
        classes["validation"],
        tuple(notes),
    )


def _stamps(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return json.dumps([[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files])
