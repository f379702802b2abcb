"""NumPy files: `.npy`, one array; `.npz`, arrays by name. A large `.npy` file is mapped into memory, not loaded.

    vectors     `(N, d)`, floating point or whole numbers (other than uint8)
    series      `(N, C, L)`, floating point
    pictures    `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, uint8, with 1 or 3 channels
    fields      `(N, C, H, W)`, floating point
    volumes     `(N, C, D, H, W)`, floating point or uint8

In an `.npz` file a name says what an array is (`x`, `images`, `data`, `arr_0` …: examples; `y`, `labels`, `classes` …:
their classes), and which part of the data (`x_train`, `val_images`, `y_test`; see `data.words`); without a word for it,
the training part. Other arrays are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources.classes import names_of
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.words import PARTS, Part, listed, part_of, words_beside_part

Meaning = Literal["examples", "classes"]

# Files of more bytes are mapped into memory.
LARGE = 2**30

_EXAMPLES = {"x", "image", "images", "picture", "pictures", "data", "sample", "samples", "vectors", "arr", "array"}
_EXAMPLES |= {"series", "fields", "volumes"}
_CLASSES = {"y", "label", "labels", "class", "classes", "target", "targets"}
# Words that say both what an array is and which part of the data it belongs to.
_BOTH = {"x": ("xtrain", "xtest", "xval", "xvalid"), "y": ("ytrain", "ytest", "yval", "yvalid")}
_CHANNELS = (1, 3)
# Floats whose last number is no larger, and smaller than the second, are taken for ones with channels last.
_FEW_CHANNELS = 4


def read_numpy(path: Path) -> Found:
    """Read a `.npy` or `.npz` file; nothing in it is unpickled.

    Raises:
        UserError: the file is damaged, holds another kind of array, or its names do not tell its arrays apart.
    """
    try:
        if path.suffix.lower() == ".npy" and path.stat().st_size > LARGE:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            return Found({"train": Arrays(str(path), examples(mapped, str(path)))})
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return Found({"train": Arrays(str(path), examples(content, str(path)))})
            return read_named(content, str(path))
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory: save it as .npy, which is read piece by piece") from error
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"cannot read {path}: {_reason(error)}") from error


def read_named(content: Mapping[str, np.ndarray], place: str) -> Found:
    """Sort the arrays of a file by their names; `content` reads each when it is asked for.

    Raises:
        UserError: the names do not tell the arrays apart, or one of them cannot be examples or classes.
    """
    names: dict[Meaning, dict[Part, str]] = {"examples": {}, "classes": {}}
    unread = []
    for name in content:
        part, kind = part_of(name, place) or "train", meaning(name)
        if kind is None:
            unread.append(name)
        elif part in names[kind]:
            raise UserError(f"{place} has both {names[kind][part]} and {name} for its {part} part: rename one of them")
        else:
            names[kind][part] = name
    examples_of, classes_of = names["examples"], names["classes"]
    if "train" not in examples_of:
        raise UserError(f"{place} has arrays {listed(content)}; call that of training examples x_train")
    unread += [name for part, name in classes_of.items() if part not in examples_of]
    parts: dict[Part, Arrays] = {}
    for part in PARTS:
        if part in examples_of:
            where = f"{place}[{examples_of[part]}]"
            array = examples(content[examples_of[part]], where)
            label = classes_of.get(part)
            classes = None if label is None else names_of(content[label], len(array), f"{place}[{label}]")
            parts[part] = Arrays(where, array, classes)
    return Found(parts, notes=(f"{place}: arrays {listed(unread)} are not read",) if unread else ())


def meaning(name: str) -> Meaning | None:
    """Return whether something of this name holds examples or their classes; None if the name does not say."""
    words = words_beside_part(name)
    lower = name.lower()
    if words & _CLASSES or any(word in lower for word in _BOTH["y"]):
        return "classes"
    if not words - {"arr"} or words & _EXAMPLES or any(word in lower for word in _BOTH["x"]):
        return "examples"
    return None


def examples(array: np.ndarray, where: str) -> np.ndarray:
    """Return an array with channels behind the number of examples; nothing is copied.

    Raises:
        UserError: the array is of no kind named above, or could be several things.
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
    floats = np.issubdtype(array.dtype, np.floating)
    if (floats and array.ndim in (4, 5)) or (array.dtype == np.uint8 and array.ndim == 5):
        if array.shape[-1] <= _FEW_CHANNELS and array.shape[-1] < array.shape[1]:
            order = "(N, C, H, W)" if array.ndim == 4 else "(N, C, D, H, W)"
            raise UserError(
                f"{where} has shape {array.shape}, where the last number could be the channels: they come second, as "
                f"in {order}"
            )
        return array
    if array.ndim == 2 and (floats or (array.dtype.kind in "iu" and array.dtype != np.uint8)):
        return array
    if array.ndim == 3 and floats:
        return array
    raise UserError(
        f"{where} has {array.dtype} numbers of shape {array.shape}: pictures are uint8 (N, H, W), (N, H, W, C) or "
        "(N, C, H, W), with 1 channel or 3; floats are vectors (N, d), series (N, C, L), fields (N, C, H, W) or "
        "volumes (N, C, D, H, W), which may be uint8, too"
    )


def _reason(error: Exception) -> str:
    """Say what is wrong with a file, in our words."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return error.strerror
    if "allow_pickle=False" in str(error):
        return "it holds Python objects, which could run code: save plain numbers"
    return "it is damaged"
