"""Classes are known by their names, and numbered once for all parts of the data: by those of the training part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data.words import Part, listed

# Whole numbers below this are told apart in float64.
_LARGEST = 2.0**53


def number_classes(
    names: Mapping[Part, Sequence[str] | None], order: Sequence[str], where: str
) -> tuple[tuple[str, ...], dict[Part, Tensor | None]]:
    """Number the classes of examples.

    Args:
        names: for each part, the class of each of its examples, or None if its examples have none.
        order: all classes in their order, where the data say it; else they are sorted (whole numbers as such).
        where: the data, for messages.

    Returns:
        What the classes are called, in their order; and for each part the numbers `(N,)`, int64, or None.

    Raises:
        UserError: a part has a class that the training part has not.
    """
    known = names.get("train")
    if known is None:
        return (), dict.fromkeys(names)
    classes = tuple(order) or _sorted(set(known))
    number = {name: place for place, name in enumerate(classes)}
    numbers: dict[Part, Tensor | None] = {}
    for part, of_part in names.items():
        if of_part is None:
            numbers[part] = None
            continue
        unknown = sorted(set(of_part) - number.keys())
        if unknown:
            raise UserError(
                f"{where}: the {part} part has the class {listed(unknown)}, which the training part has not; it has: "
                f"{listed(classes)}"
            )
        numbers[part] = torch.tensor([number[name] for name in of_part], dtype=torch.int64)
    return classes, numbers


def names_of(array: np.ndarray, count: int, where: str) -> list[str] | None:
    """Return the names of the classes of `count` examples, from an array `(count,)` or `(count, 1)` of them.

    The result is None if all are -1, by which public datasets hide the answers of the part to test on.

    Raises:
        UserError: there is not one class an example, or classes are neither whole numbers from 0 nor words.
    """
    flat = array.reshape(-1)
    if array.shape not in ((count,), (count, 1)):
        raise UserError(f"{where} has classes of shape {array.shape} for {count} examples: give one an example")
    if np.issubdtype(flat.dtype, np.floating) and bool(((flat == np.floor(flat)) & (abs(flat) < _LARGEST)).all()):
        flat = flat.astype(np.int64)
    if flat.dtype == bool or np.issubdtype(flat.dtype, np.integer):
        if count and bool((flat == -1).all()):
            return None
        if count and flat.min() < 0:
            raise UserError(f"{where} has the class {flat.min()}: classes are whole numbers from 0, or words")
        return [str(int(number)) for number in flat]
    if flat.dtype.kind in "US":
        return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in flat.tolist()]
    raise UserError(f"{where} has {array.dtype} classes: classes are whole numbers from 0, or words")


def _sorted(names: set[str]) -> tuple[str, ...]:
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
