"""Examples that Python has in memory, as one array: of NumPy's arrays, torch's tensors and datasets, and anything else
that gives one example after the other.

An item may be an example; an example and its class; or a dictionary with both, by names such as `image` and `label`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from score_sde.common.errors import UserError
from score_sde.data.sources.arrays import Meaning, meaning
from score_sde.data.words import listed


class Examples(NamedTuple):
    """Holds examples as one array, the classes of each, if it has one, and notes."""

    array: np.ndarray
    classes: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def gathered(x: Any, where: str) -> Examples:
    """Return examples `(N, *shape)`, whatever gives them.

    Raises:
        UserError: these are no examples, or not all alike.
    """
    if isinstance(x, Tensor | np.ndarray):
        return Examples(as_array(x))
    if isinstance(x, DataLoader):
        raise UserError(f"{where}: give the dataset itself, not a DataLoader of it, which makes batches")
    if isinstance(x, str | bytes) or not (hasattr(x, "__iter__") or hasattr(x, "__getitem__")):
        raise UserError(f"{where}: {type(x).__name__} is neither an array, nor gives one example after the other")
    examples: list[np.ndarray] = []
    classes: list[Any] = []
    unread: dict[str, None] = {}
    for number, item in enumerate(_items(x)):
        example, label = _taken_apart(item, f"{where}, example {number},", unread)
        array = as_array(example)
        if examples and (array.shape != examples[0].shape or _has_levels(array) != _has_levels(examples[0])):
            raise UserError(
                f"{where}: example {number} has {array.dtype} numbers of shape {array.shape}, but the first "
                f"{examples[0].dtype} of {examples[0].shape}: all must be alike"
            )
        examples.append(array)
        classes.append(label.item() if isinstance(label, Tensor | np.generic | np.ndarray) else label)
    if not examples:
        raise UserError(f"{where} has no examples")
    missing = sum(label is None for label in classes)
    if 0 < missing < len(classes):
        raise UserError(f"{where}: {missing} of {len(classes)} examples have no class: leave them out, or all classes")
    notes = (f"{where}: what is called {listed(unread)} is not read",) if unread else ()
    return Examples(np.stack(examples), None if missing else np.asarray(classes), notes)


def as_array(values: Any) -> np.ndarray:
    """Return numbers as an array, on the CPU; bfloat16, which NumPy has not, as float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, np.memmap):
        return values
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise UserError("some numbers are masked: leave out the examples, or the columns, that have them")
    if type(values).__module__.startswith("PIL.") and getattr(values, "mode", "") not in ("L", "RGB"):
        raise UserError(f"pictures have Pillow's mode L or RGB, not {values.mode}: convert them")
    if isinstance(values, list | tuple):
        # Tensors within lists have to be made arrays first.
        values = [as_array(value) if isinstance(value, Tensor) else value for value in values]
    try:
        return np.asarray(values)
    except ValueError as error:  # of lists that are not all as long
        raise UserError("examples are arrays of numbers, or lists of them that are all as long") from error


def _items(x: Any) -> Iterator[Any]:
    """Yield item after item; torch's datasets often have only a length and places."""
    if hasattr(x, "__getitem__") and hasattr(x, "__len__") and not isinstance(x, Mapping):
        return (x[number] for number in range(len(x)))
    if isinstance(x, Iterable):
        return iter(x)
    raise UserError(f"{type(x).__name__} has no length, so that its examples cannot be counted")


def _taken_apart(item: Any, where: str, unread: dict[str, None]) -> tuple[Any, Any]:
    """Return an item's example, and its class or None; add names that are not read.

    Raises:
        UserError: the item does not say what is what.
    """
    if isinstance(item, Mapping):
        return _by_name(item, where, unread)
    if isinstance(item, list | tuple) and len(item) == 2 and _has_sizes(item[0]) and not _has_sizes(item[1]):
        return item[0], item[1]
    if isinstance(item, tuple) and any(_is_array(value) for value in item):
        if len(item) > 1:
            raise UserError(f"{where} has {len(item)} things: give an example, or an example and its class")
        return item[0], None
    return item, None


def _by_name(item: Mapping[Any, Any], where: str, unread: dict[str, None]) -> tuple[Any, Any]:
    named: dict[Meaning | None, list[Any]] = {"examples": [], "classes": [], None: []}
    for name in item:
        named[meaning(str(name))].append(name)
    if not named["examples"]:
        named["examples"] = [name for name in named[None] if _is_array(item[name])]
    if len(named["examples"]) != 1 or len(named["classes"]) > 1:
        raise UserError(f"{where} has {listed(item)}: call the example x, its class y, and neither twice")
    [example] = named["examples"]
    label = named["classes"][0] if named["classes"] else None
    unread.update(dict.fromkeys(str(name) for name in item if name not in (example, label)))
    return item[example], None if label is None else item[label]


def _is_array(value: Any) -> bool:
    """Return whether this is an array of one dimension or more, or a picture."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return type(value).__module__.startswith("PIL.")


def _has_sizes(value: Any) -> bool:
    """Return whether this is more than a number or a word."""
    return _is_array(value) or isinstance(value, list | tuple)


def _has_levels(array: np.ndarray) -> bool:
    return array.dtype == np.uint8
