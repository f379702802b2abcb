"""NumPy files: `.npy`, one array; `.npz`, arrays by name.

    pictures    `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, uint8, with 1 or 3 channels
    vectors     `(N, d)`, floating point

In an `.npz` file a name says what an array is (`x`, `images`, `data`, `arr_0` …: examples; `y`, `labels`, `classes` …:
their classes), and which part of the data (`x_train`, `val_images`, `y_test`; see `data.words`); without a word for it,
the training part. Other arrays are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources.classes import names_of
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.sources.vectors import read_vectors
from score_sde.data.words import PARTS, Part, listed, part_of, words_beside_part

_EXAMPLES = {"x", "image", "images", "picture", "pictures", "data", "sample", "samples", "vectors", "arr", "array"}
_CLASSES = {"y", "label", "labels", "class", "classes", "target", "targets"}
# Words that say both what an array is and which part of the data it belongs to.
_BOTH = {"x": ("xtrain", "xtest", "xval", "xvalid"), "y": ("ytrain", "ytest", "yval", "yvalid")}
_CHANNELS = (1, 3)


def read_numpy(path: Path) -> Found:
    """Read a `.npy` or `.npz` file; nothing in it is unpickled.

    Raises:
        UserError: the file is damaged, holds another kind of array, or its names do not tell its arrays apart.
    """
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return Found({"train": Arrays(str(path), examples(content, str(path), "train"))})
            return _read_named(content, path)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory") from error
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"cannot read {path}: {_reason(error)}") from error


def _read_named(content: Mapping[str, np.ndarray], path: Path) -> Found:
    """Sort the arrays of an `.npz` file by their names; `content` reads each when it is asked for."""
    examples_of: dict[Part, str] = {}
    classes_of: dict[Part, str] = {}
    unread = []
    for name in content:
        part, table = part_of(name, str(path)) or "train", _table(name, examples_of, classes_of)
        if table is None:
            unread.append(name)
        elif part in table:
            raise UserError(f"{path} has both {table[part]} and {name} for its {part} part: rename one of them")
        else:
            table[part] = name
    if "train" not in examples_of:
        raise UserError(f"{path} has arrays {listed(content)}; call that of training examples x_train")
    unread += [name for part, name in classes_of.items() if part not in examples_of]
    parts: dict[Part, Arrays] = {}
    for part in PARTS:
        if part in examples_of:
            where = f"{path}[{examples_of[part]}]"
            array = examples(content[examples_of[part]], where, part)
            label = classes_of.get(part)
            classes = None if label is None else names_of(content[label], len(array), f"{path}[{label}]")
            parts[part] = Arrays(where, array, classes)
    return Found(parts, notes=(f"{path}: arrays {listed(unread)} are not read",) if unread else ())


def _table(name: str, examples_of: dict[Part, str], classes_of: dict[Part, str]) -> dict[Part, str] | None:
    """Return the table that the array of this name belongs to; None if the name does not say what it is."""
    words = words_beside_part(name)
    lower = name.lower()
    if words & _CLASSES or any(word in lower for word in _BOTH["y"]):
        return classes_of
    if not words - {"arr"} or words & _EXAMPLES or any(word in lower for word in _BOTH["x"]):
        return examples_of
    return None


def examples(array: np.ndarray, where: str, part: Part) -> np.ndarray:
    """Return an array of pictures as `(N, C, H, W)` uint8, or of vectors as `(N, d)` float32.

    Raises:
        UserError: the array is neither, or could be several things.
    """
    if array.ndim and array.size == 0:
        raise UserError(f"{where} has shape {array.shape}, so there is nothing in it")
    if array.dtype == np.uint8 and array.ndim == 3:
        if array.shape[2] in _CHANNELS:
            raise UserError(
                f"{where} has shape {array.shape}, where the last number could be the channels of one picture, or the "
                "width of many: save them as (N, H, W, C), or (N, H, W) with W above 3"
            )
        return array[:, None]
    if array.dtype == np.uint8 and array.ndim == 4:
        first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
        if first and last:
            raise UserError(
                f"{where} has shape {array.shape}, where channels could be the second number or the last: save it as "
                "(N, H, W, C) with H above 3"
            )
        if first or last:
            return array if first else array.transpose(0, 3, 1, 2)
    if array.ndim == 2 and np.issubdtype(array.dtype, np.floating):
        return read_vectors(array, where, part == "train")
    raise UserError(
        f"{where} has {array.dtype} numbers of shape {array.shape}: pictures are uint8 (N, H, W), (N, H, W, C) or "
        "(N, C, H, W), with 1 channel or 3, vectors are floats (N, d)"
    )


def _reason(error: Exception) -> str:
    """Say what is wrong with a file, in our words."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return error.strerror
    if "allow_pickle=False" in str(error):
        return "it holds Python objects, which could run code: save plain numbers"
    return "it is damaged"
