"""NumPy files: `.npy`, one array; `.npz`, arrays by name. A large `.npy` file is mapped into memory, not loaded.

    vectors     `(N, d)`, floating point or whole numbers (other than uint8)
    series      `(N, C, L)`, floating point
    pictures    `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, uint8, with 1 or 3 channels
    fields      `(N, C, H, W)`, floating point
    volumes     `(N, C, D, H, W)`, floating point or uint8

In an `.npz` file a name says what an array is (`x`, `images`, `data`, `arr_0` …: examples; `y`, `labels`, `classes` …:
their classes), and which part of the data (`x_train`, `val_images`, `y_test`; see `data.words`); without a word for it,
the training part. What is called `condition`, or is asked for by name, is what examples are conditioned on; see
`data.sources.condition_arrays`. Other arrays are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources.classes import names_of
from score_sde.data.sources.condition_arrays import checked, is_of_classes, name_of, unknown
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.sources.layout import examples
from score_sde.data.words import PARTS, Part, listed, part_of, words_beside_part

Meaning = Literal["examples", "classes"]

# Files of more bytes are mapped into memory.
LARGE = 2**30

_EXAMPLES = {"x", "image", "images", "picture", "pictures", "data", "sample", "samples", "vectors", "arr", "array"}
_EXAMPLES |= {"series", "fields", "volumes"}
_CLASSES = {"y", "label", "labels", "class", "classes", "target", "targets"}
# Words that say both what an array is and which part of the data it belongs to.
_BOTH = {"x": ("xtrain", "xtest", "xval", "xvalid"), "y": ("ytrain", "ytest", "yval", "yvalid")}


def read_numpy(path: Path, wanted: Sequence[str] = ()) -> Found:
    """Read a `.npy` or `.npz` file; nothing in it is unpickled. The arrays `wanted` are conditions.

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
            return read_named(content, str(path), wanted)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory: save it as .npy, which is read piece by piece") from error
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"cannot read {path}: {_reason(error)}") from error


def read_named(content: Mapping[str, np.ndarray], place: str, wanted: Sequence[str] = ()) -> Found:
    """Sort the arrays of a file by their names; `content` reads each when it is asked for.

    Args:
        content: the arrays, by name.
        place: where they are, for complaints.
        wanted: names of arrays that examples are conditioned on, beside those that are called so.

    Raises:
        UserError: the names do not tell the arrays apart, or one of them cannot be examples or classes.
    """
    names: dict[Meaning, dict[Part, str]] = {"examples": {}, "classes": {}}
    unread = []
    conditions_of: dict[Part, dict[str, str]] = {part: {} for part in PARTS}
    for name in content:
        part, kind, called = part_of(name, place) or "train", meaning(name), name_of(name, wanted)
        if called is not None and is_of_classes(called, content[name]):
            kind, called = "classes", None
        if called is not None:
            conditions_of[part][called] = name
        elif kind is None:
            unread.append(name)
        elif part in names[kind]:
            raise UserError(f"{place} has both {names[kind][part]} and {name} for its {part} part: rename one of them")
        else:
            names[kind][part] = name
    examples_of, classes_of = names["examples"], names["classes"]
    if "train" not in examples_of:
        raise UserError(f"{place} has arrays {listed(content)}; call that of training examples x_train")
    unread += [name for part, name in classes_of.items() if part not in examples_of]
    for key in wanted:
        if key not in content and key not in conditions_of["train"]:
            raise unknown(key, [name for name in content if meaning(name) != "examples"], place)
    parts: dict[Part, Arrays] = {}
    for part in PARTS:
        if part in examples_of:
            where = f"{place}[{examples_of[part]}]"
            array = examples(content[examples_of[part]], where)
            label = classes_of.get(part)
            classes = None if label is None else names_of(content[label], len(array), f"{place}[{label}]")
            conditions = {
                called: checked(called, np.asarray(content[key]), len(array), f"{place}[{key}]")
                for called, key in conditions_of[part].items()
            }
            parts[part] = Arrays(where, array, classes, conditions=conditions)
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


def _reason(error: Exception) -> str:
    """Say what is wrong with a file, in our words."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return error.strerror
    if "allow_pickle=False" in str(error):
        return "it holds Python objects, which could run code: save plain numbers"
    return "it is damaged"
