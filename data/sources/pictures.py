"""Pictures that are read once, and kept as arrays that are mapped into memory: a dataset may be larger than that.

<cache>/train.npy, validation.npy, test.npy     (N, C, H, W) uint8
<cache>/about.json                              the rows that were kept, and notes; written last
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.common.interruption import keeping
from score_sde.common.progress import Progress
from score_sde.data.sources.condition_arrays import ONLY
from score_sde.data.sources.found import Found, Pictures
from score_sde.data.sources.membership import assembled, membership
from score_sde.data.sources.picture import Converted, library_silenced, read
from score_sde.data.sources.picture_format import PictureFormat
from score_sde.data.sources.reading import Reading
from score_sde.data.sources.report import Report
from score_sde.data.split import Parts
from score_sde.data.words import Part

# The number of pictures that are read at once.
_CHUNK = 512
# The version of the way from pictures to arrays: arrays made in another way are not found.
_VERSION = 3


class Prepared(NamedTuple):
    """Holds pictures as arrays.

    Attributes:
        examples: the pictures of each part, `(N, C, H, W)` uint8.
        rows: for each part, which of the chosen rows these are; the others were damaged.
        notes: what the user should know, a line each.
    """

    examples: dict[Part, Tensor]
    rows: dict[Part, list[int]]
    notes: tuple[str, ...]


def load_pictures(found: Found, place: str, reading: Reading) -> Parts:
    """Load pictures that a reader has found, in the format asked for; without a size, as they are.

    Raises:
        UserError: they are of several sizes and none is given, some are damaged, or there are too few.
    """
    form = PictureFormat(
        reading.image_size,
        reading.num_channels or 3,
        reading.levels,
        reading.background,
        reading.crop,
        reading.image_width,
        reading.resize,
    )
    rows, notes = membership(found, place, reading)
    sources = {part: found.parts[source] for part, (source, _) in rows.items()}
    chosen = {
        part: (source, rows[part][1].tolist()) for part, source in sources.items() if isinstance(source, Pictures)
    }
    prepared = prepare(chosen, form, reading.cache, reading.skip_damaged)
    kept = {part: (source, torch.tensor(prepared.rows[part], dtype=torch.int64)) for part, (source, _) in rows.items()}
    parts = assembled(found, kept, prepared.examples, form.levels, place, [*notes, *prepared.notes])
    beside = {
        part: (source.beside, prepared.rows[part])
        for part, source in sources.items()
        if isinstance(source, Pictures) and source.beside is not None
    }
    if not beside:
        return parts
    told = prepare(beside, form._replace(levels=256), reading.cache)
    return parts._replace(conditions={part: {ONLY: pictures} for part, pictures in told.examples.items()})


def prepare(
    chosen: Mapping[Part, tuple[Pictures, Sequence[int]]],
    form: PictureFormat,
    cache: Path,
    skip_damaged: bool = False,
) -> Prepared:
    """Read pictures, or find them as they were read before.

    Args:
        chosen: for each part, pictures, and which rows of them belong to it.
        form: the format that pictures are made into.
        cache: folder in which prepared pictures are kept.
        skip_damaged: leave out pictures that cannot be read, instead of refusing.

    Raises:
        UserError: pictures cannot be read, or the arrays cannot be written.
    """
    form.check()
    rows = [[part, pictures.version, list(numbers)] for part, (pictures, numbers) in chosen.items()]
    identity = json.dumps([_VERSION, rows, *form, skip_damaged])
    folder = cache / sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    if not (folder / "about.json").exists():
        kept = "stopped while reading pictures: none are kept; repeat the command to read them"
        with library_silenced(), keeping(lambda: kept):
            _prepare(chosen, form, folder, skip_damaged)
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        examples = {part: torch.from_numpy(np.load(folder / f"{part}.npy", mmap_mode="c")) for part in chosen}
        return Prepared(examples, {part: about["rows"][part] for part in chosen}, tuple(about["notes"]))
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder}, where pictures were kept: remove it, and it is made again") from error


def _prepare(
    chosen: Mapping[Part, tuple[Pictures, Sequence[int]]], form: PictureFormat, folder: Path, skip_damaged: bool
) -> None:
    report, kept = Report(), {}
    like = None
    if form.shape is None:
        form, like = _as_the_first(*chosen["train"], form)
    for part, (pictures, rows) in chosen.items():
        kept[part] = _write(pictures, rows, form, folder / f"{part}.npy", part, report, skip_damaged, like)
        if part == "train" and not kept[part]:
            raise UserError(f"none of the {len(rows)} training pictures can be read; {report.reasons()}")
    with write_atomically(folder / "about.json") as temporary:
        temporary.write_text(json.dumps({"rows": kept, "notes": report.notes(form.background)}), encoding="utf-8")


def _as_the_first(pictures: Pictures, rows: Sequence[int], form: PictureFormat) -> tuple[PictureFormat, str | None]:
    """Return the format of pictures that keep their size, that of the first one that can be read, and its place."""
    for row in rows:
        found = read(partial(pictures.open, row), form)
        if isinstance(found, Converted):
            height, width = found.original
            return form._replace(size=height, width=width, resize="none"), pictures.places[row]
    return form._replace(size=1, width=1), None


def _write(
    pictures: Pictures,
    rows: Sequence[int],
    form: PictureFormat,
    path: Path,
    part: Part,
    report: Report,
    skip_damaged: bool,
    like: str | None,
) -> list[int]:
    """Write the array of these pictures and report on them; return the rows that could be read."""
    kept: list[int] = []
    with write_atomically(path) as temporary:
        assert form.shape is not None
        shape = (len(rows), form.channels, *form.shape)
        # An array without pictures cannot be mapped.
        array = open_memmap(temporary, "w+", np.uint8, shape) if rows else np.empty(shape, np.uint8)
        reserve(temporary)
        # Should a signal come, the generator is closed at once: its threads and its bar end before anything is said.
        with closing(_read_all(pictures, rows, form, part)) as found:
            for row, picture in found:
                report.add(pictures.places[row], picture)
                if isinstance(picture, Converted):
                    if picture.levels.shape[1:] != form.shape:
                        raise UserError(_of_another_size(pictures.places[row], picture, form, like))
                    array[len(kept)] = picture.levels
                    kept.append(row)
        if report.damaged and not skip_damaged:
            raise UserError(
                f"{len(report.damaged)} of {len(rows)} {part} pictures cannot be read: {report.reasons()}; remove "
                "them, or leave them out: damaged=skip"
            )
        if len(kept) < len(rows) or not rows:
            array = array[: len(kept)].copy()
            np.save(temporary, array)
        elif isinstance(array, np.memmap):
            array.flush()
        # The map ends here, since Windows renames no file that is mapped.
        del array
    return kept


def _of_another_size(place: str, picture: Converted, form: PictureFormat, like: str | None) -> str:
    (height, width), wanted = picture.original, form.shape
    assert wanted is not None
    return (
        f"{place} is {height} x {width} (height x width), but {like or 'image_size asks for'} {'is ' * bool(like)}"
        f"{wanted[0]} x {wanted[1]}: bring pictures to one size, image_size=…, by resize=crop, pad or fit"
    )


def reserve(path: Path) -> None:
    """See that there is room for all of a file: a full disk, met in mapped memory, would kill the process."""
    if hasattr(os, "posix_fallocate") and path.stat().st_size:
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _read_all(
    pictures: Pictures, rows: Sequence[int], form: PictureFormat, part: Part
) -> Generator[tuple[int, Converted | str], None, None]:
    """Yield each row, with its picture or what is wrong with it."""
    if form.resize == "none":
        form = form._replace(size=None, width=None)

    def read_row(row: int) -> Converted | str:
        return read(partial(pictures.open, row), form)

    with ThreadPoolExecutor() as pool, Progress(f"reading {part} pictures", len(rows), "picture") as bar:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            for found in zip(chunk, pool.map(read_row, chunk), strict=True):
                yield found
                bar.update()
