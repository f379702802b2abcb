"""IDX files, the format of MNIST (LeCun et al. 1998), gzipped or not.

    0 0 type rank | size of each dimension, big-endian uint32 | the numbers        type 8: uint8

Pictures are called `…-images-idx3-ubyte`, their classes, beside them, `…-labels-idx1-ubyte`; of a folder, the words of
a name say which part of the data it is (`train-…`, `t10k-…`; see `data.words`).
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources.classes import names_of
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.words import Part, listed, part_of, settle

_UINT8 = 8
# The name of any IDX file, whatever numbers it holds.
_ANY = re.compile(r"idx\d-")
_IMAGES, _LABELS = ("images", "idx3"), ("labels", "idx1")
# The most bytes that zlib can make of one.
_LARGEST_RATIO = 1032


def is_idx(path: Path) -> bool:
    """Return whether this is the name of an IDX file of pictures."""
    return "idx3-ubyte" in path.name.lower() and path.is_file()


def read_idx_files(path: Path) -> Found:
    """Read the pictures of one file, or of the files in a folder.

    Raises:
        UserError: a file is damaged, or the names do not tell the parts of the data apart.
    """
    if path.is_file():
        return Found({"train": _with_classes(path)})
    files: dict[Part | None, list[Path]] = {}
    for file in sorted(filter(is_idx, path.iterdir())):
        files.setdefault(part_of(file.name, str(path)), []).append(file)
    for part, several in files.items():
        if len(several) > 1:
            names = listed(file.name for file in several)
            what = "without a word such as train or test in their names" if part is None else f"for its {part} part"
            raise UserError(f"{path} has several files {what}: {names}; keep one of them, or rename them")
    notes: list[str] = []
    single, other = settle({part: several[0] for part, several in files.items()}, str(path), notes)
    if other is not None:
        raise UserError(f"{path} has {other.name} beside {single['train'].name}: which part of the data is it?")
    parts: dict[Part, Arrays] = {part: _with_classes(file) for part, file in single.items()}
    read = {file for pictures in single.values() for file in (pictures, _labels_beside(pictures))}
    unread = [file.name for file in sorted(path.iterdir()) if _ANY.search(file.name.lower()) and file not in read]
    if unread:
        notes.append(f"{path}: {listed(unread)} are not read; classes are called …-labels-idx1-ubyte")
    return Found(parts, notes=tuple(notes))


def read_idx(path: Path) -> np.ndarray:
    """Read the array of one file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = _content(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
        raise UserError(f"cannot read {path}: {reason}") from error
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UINT8]):
        raise UserError(f"{path} is not an IDX file of bytes")
    shape, start = _shape(content)
    if len(shape) != content[3] or len(content) - start != _size(shape):
        raise UserError(f"{path} has {len(content)} bytes, which do not fit its shape {shape}: it is truncated")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _content(path: Path) -> bytes:
    """Return all bytes of a file; if it is packed, unpack as many as its head says, and one more if there are any."""
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    with gzip.open(path) as file:
        head = file.read(4)
        head += file.read(4 * head[3]) if len(head) == 4 else b""
        wanted = min(_size(_shape(head)[0]), _LARGEST_RATIO * path.stat().st_size)
        return head + file.read(wanted + 1)


def _shape(content: bytes) -> tuple[tuple[int, ...], int]:
    """Return the shape that the head of a file tells, as far as it goes, and where the head ends."""
    start = 4 + 4 * (content[3] if len(content) > 3 else 0)
    return tuple(np.frombuffer(content[4:start][: (len(content) - 4) // 4 * 4], ">u4").tolist()), start


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _with_classes(path: Path) -> Arrays:
    array = read_idx(path)
    if array.ndim != 3 or not array.size:
        raise UserError(f"{path} has shape {array.shape}: pictures have shape (N, H, W)")
    pictures = array[:, None]
    beside = _labels_beside(path)
    if beside is None:
        return Arrays(str(path), pictures)
    return Arrays(str(path), pictures, names_of(read_idx(beside), len(pictures), str(beside)))


def _labels_beside(path: Path) -> Path | None:
    """Return the file of the classes of these pictures, packed or not, whatever the case of its name."""
    name = path.name.lower()
    for images, labels in zip(_IMAGES, _LABELS, strict=True):
        name = name.replace(images, labels)
    plain = name.removesuffix(".gz")
    candidates = (file for file in sorted(path.parent.iterdir()) if file.name.lower() in (plain, plain + ".gz"))
    return next((file for file in candidates if file != path and file.is_file()), None)
