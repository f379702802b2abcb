"""What examples are conditioned on, beside classes: arrays with one row an example, by name.

    vectors     `(N, k)`, or `(N,)`, any real numbers
    captions    `(N,)`, texts, called `caption` or `captions`
    with place  series `(N, C, L)`, fields `(N, C, H, W)`, volumes `(N, C, D, H, W)`; pictures, uint8, also
                `(N, H, W)` and `(N, H, W, C)`

In a file of arrays they are called `condition`, or `condition_` and a name, by which they are then known; any others
are asked for by name. Words for a part of the data may stand in between: `condition_low_test`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from score_sde.common.errors import UserError, nearest
from score_sde.data.captions import CAPTION
from score_sde.data.sources.floats import held
from score_sde.data.sources.layout import examples
from score_sde.data.words import parts_in

# The name of a condition that has no other.
ONLY = "condition"
# These names mean classes.
CLASSES = ("class", "classes", "label", "labels")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Names that mean something else to networks.
_TAKEN = ("distorted", "until")


def name_of(key: str, wanted: Sequence[str] = ()) -> str | None:
    """Return the name of the condition that an array called `key` holds; None if it holds none.

    Args:
        key: what the array is called in a file.
        wanted: keys, or names, that were asked for.
    """
    words = [word for word in key.split("_") if not parts_in(word)]
    name = "_".join(words)
    if words in ([CAPTION], [f"{CAPTION}s"]):
        return CAPTION
    if key in wanted or name in wanted or words[:1] == [ONLY] or words[:1] == ["conditions"]:
        return "_".join(words[1:] if words[:1] in ([ONLY], ["conditions"]) else words) or ONLY
    return None


def checked(name: str, array: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return an array of a condition as `(N, k)` or `(N, C, *size)`, of numbers that are held without loss.

    Args:
        name: the name of the condition.
        array: its numbers.
        count: the number of examples.
        where: what the array is called in complaints.

    Raises:
        UserError: the array has another number of rows, numbers that are not finite, or no numbers.
    """
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise UserError(f"{where}: a condition is called by letters, digits and _, unlike {name!r}: rename it")
    if name == CAPTION:
        return _texts(array, count, where)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where} has {array.dtype} values: a condition is made of real numbers, or called class")
    if not array.ndim or len(array) != count:
        rows = f"{len(array)} rows" if array.ndim else "one value"
        raise UserError(f"{where} has {rows} for {count} examples: give one row for each")
    if not array[0].size:
        raise UserError(f"{where} has shape {array.shape}, so there is nothing in it")
    if array.dtype != np.uint8:
        array = array.astype(np.float32 if array.dtype == bool else held(array.dtype), copy=False)
        finite = np.isfinite(array).reshape(count, -1).all(1)
        if not finite.all():
            raise UserError(
                f"{where} has numbers that are not finite, first in row {int(finite.argmin())}: leave it out"
            )
    if array.ndim < 3:
        return array.reshape(count, -1)
    return examples(array, where)


def _texts(array: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return captions, `(N,)`, one text for each of `count` examples.

    Raises:
        UserError: they are no texts, or not as many.
    """
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    texts = array.dtype.kind == "U" or (array.dtype.kind == "O" and all(isinstance(text, str) for text in array.flat))
    if not texts or array.shape != (count,):
        raise UserError(
            f"{where} has to hold captions, one text for each of {count} examples, not {array.shape} values "
            f"of {array.dtype}"
        )
    return array.astype(np.str_)


def unknown(key: str, known: Sequence[str], where: str) -> UserError:
    """Return the complaint that there is no condition of this name."""
    there = ", ".join(known) or "none"
    return UserError(f"{where} has no condition called {key!r}{nearest(key, known)}; there are: {there}")


def is_of_classes(name: str, array: np.ndarray) -> bool:
    """Return whether a condition holds classes: one word or whole number an example, where it has no other name."""
    alone = array.ndim < 2 or (array.ndim == 2 and array.shape[1] == 1)
    return name in CLASSES or (name == ONLY and alone and array.dtype.kind != "f")
