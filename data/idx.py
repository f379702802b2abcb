"""IDX files, the format of MNIST (LeCun et al. 1998), gzipped or not.

    0 0 type rank | size of each dimension, big-endian uint32 | the numbers        type 8: uint8

Pictures are called `…-images-idx3-ubyte`, their classes, beside them, `…-labels-idx1-ubyte`; of a folder, `train-…`
are to train on and `t10k-…` or `test-…` to test on.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor

from data.arrays import Arrays, classes_of, examples
from errors import UserError

_UINT8 = 8
_IMAGES, _LABELS = "-images", "-labels"


def is_idx(path: Path) -> bool:
    """Whether this is the name of an IDX file of pictures."""
    return "idx3-ubyte" in path.name and path.is_file()


def read_idx_files(path: Path) -> Arrays:
    """The pictures of one file, or of the files in a folder.

    Raises:
        UserError: a file is damaged, or there are none to train on.
    """
    if path.is_file():
        pictures, classes = _with_classes(path)
        return Arrays(pictures, None, classes)
    files = sorted(file for file in path.iterdir() if is_idx(file))
    test = next((file for file in files if file.name.startswith(("t10k", "test"))), None)
    train = next((file for file in files if file != test), test)
    assert train is not None, "the caller saw an IDX file"
    pictures, classes = _with_classes(train)
    if test is None or train == test:
        return Arrays(pictures, None, classes)
    test_pictures, test_classes = _with_classes(test)
    return Arrays(pictures, test_pictures, classes, test_classes)


def read_idx(path: Path) -> np.ndarray:
    """The array of one file.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UINT8]):
        raise UserError(f"{path} is not an IDX file of bytes")
    rank = content[3]
    start = 4 + 4 * rank
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist()) if len(content) >= start else ()
    if len(shape) != rank or len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{path} has {len(content)} bytes, which do not fit its shape {shape}: it is truncated")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _with_classes(path: Path) -> tuple[np.ndarray, Tensor | None]:
    pictures = examples(read_idx(path), str(path))
    name = path.name.replace(_IMAGES, _LABELS).replace("idx3", "idx1")
    for beside in (path.with_name(name), path.with_name(name.removesuffix(".gz")), path.with_name(name + ".gz")):
        if beside.is_file() and beside != path:
            return pictures, classes_of(read_idx(beside), pictures, str(beside))
    return pictures, None
