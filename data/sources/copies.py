r"""Rows of arrays, copied once: into memory, or, of arrays that are mapped from a file, into files that are mapped.

Rows are copied in chunks, and numbers without levels looked at on the way (see `data.sources.floats`), so that arrays
may be larger than memory.

<cache>/train.npy, validation.npy, test.npy     (N, *shape)
<cache>/notes.json                              notes; written last
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.data.sources.floats import Spread, held
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.sources.membership import Rows, assembled, membership
from score_sde.data.sources.pictures import reserve
from score_sde.data.sources.reading import Reading
from score_sde.data.split import Parts
from score_sde.data.words import Part

# Bytes of float64 numbers that are looked at at once.
_CHUNK = 2**25
# The version of the way from arrays to kept files: those made in another way are not found.
_VERSION = 1


def in_parts(
    found: Found, arrays: Mapping[Part, Arrays], levels: int | None, place: str, reading: Reading, version: object
) -> Parts:
    """Copy the rows of each part, into memory or, of arrays that are mapped, into files of their own."""
    rows, notes = membership(found, place, reading)
    dtype = np.result_type(*[held(array.examples.dtype) for array in arrays.values()])

    spreads: dict[Part, Spread] = {}

    def fill(part: Part, copy: np.ndarray) -> list[str]:
        source, numbers = rows[part]
        spread = _fill(copy, arrays[source], numbers.numpy(), reading.missing)
        if spread is None:
            return []
        spreads[part] = spread
        if part != "train":
            spread.check_beside(spreads["train"])
            return []
        spread.check()
        return spread.notes()

    shapes = {part: (len(numbers), *arrays["train"].examples.shape[1:]) for part, (_, numbers) in rows.items()}
    if any(isinstance(array.examples, np.memmap) for array in arrays.values()):
        examples, more = _mapped(
            shapes, dtype, fill, reading.cache / _identity(rows, [version, True] if reading.missing else version)
        )
    else:
        copies = {part: np.empty(shape, dtype) for part, shape in shapes.items()}
        more = [note for part, copy in copies.items() for note in fill(part, copy)]
        examples = {part: torch.from_numpy(copy) for part, copy in copies.items()}
    return assembled(found, rows, examples, levels, place, [*notes, *more])


def _fill(copy: np.ndarray, array: Arrays, rows: np.ndarray, missing: bool) -> Spread | None:
    """Copy these rows of an array; return what is known of them if they have no levels."""
    spread = None
    if not array.has_levels:
        spread = Spread(array.where, array.examples.dtype, array.examples.shape[1:], array.columns, missing)
    for place, chosen in _chunks(rows, copy.shape[1:]):
        chunk = np.asarray(array.examples[chosen])
        if spread is not None:
            spread.add(chunk, chosen.tolist())
        copy[place] = chunk
    return spread


def _chunks(rows: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield pieces of the rows, each with its place among all of them."""
    size = max(1, _CHUNK // (8 * max(1, int(np.prod(shape)))))
    for start in range(0, len(rows), size):
        yield slice(start, start + size), rows[start : start + size]


def _identity(rows: Rows, version: object) -> str:
    """Return a name that no other rows, and no other arrays, have."""
    digest = sha256(json.dumps([_VERSION, version]).encode("utf-8", "surrogateescape"))
    for part, (source, numbers) in rows.items():
        digest.update(f"{part} {source} {len(numbers)}".encode())
        digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()[:16]


def _mapped(
    shapes: Mapping[Part, tuple[int, ...]],
    dtype: np.dtype,
    fill: Callable[[Part, np.ndarray], list[str]],
    folder: Path,
) -> tuple[dict[Part, Tensor], list[str]]:
    """Fill files with the parts, unless that was done before; return the parts, mapped, and notes."""
    if not (folder / "notes.json").exists():
        try:
            notes = [note for part, shape in shapes.items() for note in _write(folder, part, shape, dtype, fill)]
            with write_atomically(folder / "notes.json") as temporary:
                temporary.write_text(json.dumps(notes), encoding="utf-8")
        except BaseException:
            # They may be as large as the disk.
            for part in shapes:
                (folder / f"{part}.npy").unlink(missing_ok=True)
            raise
    try:
        kept = json.loads((folder / "notes.json").read_text(encoding="utf-8"))
        mapped = {
            part: torch.from_numpy(np.load(folder / f"{part}.npy", mmap_mode="c" if shape[0] else None))
            for part, shape in shapes.items()
        }
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {folder}, where examples were kept: remove it, and it is made again") from error
    return mapped, kept


def _write(
    folder: Path,
    part: Part,
    shape: tuple[int, ...],
    dtype: np.dtype,
    fill: Callable[[Part, np.ndarray], list[str]],
) -> list[str]:
    """Fill the file of a part, and return notes."""
    notes: list[str] = []
    with write_atomically(folder / f"{part}.npy") as temporary:
        if not shape[0]:
            # An array without examples cannot be mapped.
            np.save(temporary, np.empty(shape, dtype))
            return notes
        copy = open_memmap(temporary, "w+", dtype, shape)
        reserve(temporary)
        notes = fill(part, copy)
        copy.flush()
        # The map ends here, since Windows renames no file that is mapped.
        del copy
    return notes
