"""Long work in parts, each written down when it is done, so that a second run goes on where the first was killed.

    <folder>/about.json     what the parts are of; parts of something else are thrown away
    <folder>/0000000.npz    the part that begins at row 0, …

Several processes divide the parts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.files import open_npz, write_atomically

Part = dict[str, np.ndarray]


def in_parts(
    folder: Path,
    about: dict[str, Any],
    count: int,
    size: int,
    work: Callable[[range], Part],
    report: Callable[[Part, bool], None],
) -> list[Part]:
    """Do the work on rows `0 … count - 1`, `size` at a time; return all parts, in order, on every process.

    Args:
        folder: where parts are kept until `remove_parts`.
        about: plain values that decide the results.
        count: number of rows in all.
        size: number of rows in a part.
        work: called with the rows of a part.
        report: called with each part of this process, and whether it was found rather than done.

    Raises:
        UserError: a file cannot be written.
    """
    if distributed.rank() == 0:
        _prepare(folder, about)
    distributed.barrier()
    batches = batches_of(count, size)
    for batch in distributed.share(batches):
        path = _path(folder, batch)
        part = _read(path)
        found = part is not None
        if part is None:
            part = work(batch)
            with write_atomically(path) as temporary:
                np.savez(temporary, allow_pickle=False, **part)
        report(part, found)
    distributed.barrier()
    parts = []
    for batch in batches:
        part = _read(_path(folder, batch))
        if part is None:
            raise UserError(f"cannot read {_path(folder, batch)}, which was just written; run this again")
        parts.append(part)
    return parts


def batches_of(count: int, size: int) -> list[range]:
    """Return the rows of each part, in order."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def rows_done(folder: Path, count: int, size: int) -> int:
    """Count the rows in parts that are there already, of all processes."""
    return sum(len(batch) for batch in batches_of(count, size) if _path(folder, batch).exists())


def remove_parts(folder: Path) -> None:
    """Remove the parts, once what follows from them has been written and all processes are here."""
    distributed.barrier()
    if distributed.rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)


def digest(*tensors: Tensor) -> str:
    """Return a short name for the contents of tensors."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()[:16]


def _prepare(folder: Path, about: dict[str, Any]) -> None:
    path = folder / "about.json"
    text = json.dumps(about, indent=2, sort_keys=True) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _path(folder: Path, rows: range) -> Path:
    return folder / f"{rows.start:07d}.npz"


def _read(path: Path) -> Part | None:
    """Return the part at `path`; None if it is missing or damaged."""
    try:
        with open_npz(path) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
