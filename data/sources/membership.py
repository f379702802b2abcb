"""Which examples belong to which part of the data, and the parts put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data.captions import CAPTION
from score_sde.data.sources.classes import number_classes
from score_sde.data.sources.found import Found
from score_sde.data.sources.reading import Reading
from score_sde.data.split import Parts, split_by_name
from score_sde.data.words import PARTS, Part, listed

# For each part of the data, the part that a reader found it in, and its rows there.
Rows = Mapping[Part, tuple[Part, Tensor]]


def membership(found: Found, place: str, reading: Reading) -> tuple[Rows, list[str]]:
    """Return the rows of each part, and notes; a test or validation part that is missing is taken from training."""
    notes = list(found.notes)
    rows: dict[Part, tuple[Part, Tensor]] = {
        part: (part, torch.arange(len(examples))) for part, examples in found.parts.items()
    }
    whole = found.parts["train"]
    names, classes, numbers = whole.names, whole.classes, rows["train"][1]
    wanted: tuple[tuple[Part, float, int, str], ...] = (
        ("test", reading.test_share, reading.split_seed, "test_share"),
        ("validation", reading.validation, reading.fold, "validation"),
    )
    for part, size, seed, key in wanted:
        if part in found.parts:
            if part == "validation" and size:
                count = len(found.parts[part])
                notes.append(f"{place} has a validation part of {count}, which is used instead of {key}={size:g}")
            continue
        of_chosen = None if classes is None else [classes[row] for row in numbers.tolist()]
        chosen = (names[row] for row in numbers.numpy())
        rest, taken = split_by_name(chosen, len(numbers), size, seed, of_chosen, part, key, place)
        rows[part] = ("train", numbers[taken])
        numbers = numbers[rest]
    rows["train"] = ("train", numbers)
    return {part: rows[part] for part in PARTS}, notes


def assembled(
    found: Found,
    rows: Rows,
    examples: Mapping[Part, Tensor],
    levels: int | None,
    place: str,
    notes: Sequence[str],
) -> Parts:
    """Put together the parts, with their classes."""
    named = {part: examples_of.classes for part, examples_of in found.parts.items()}
    class_names, numbers = number_classes(named, found.class_order, place)
    classes: dict[Part, Tensor | None] = {}
    for part, (source, kept) in rows.items():
        known = numbers[source]
        classes[part] = None if known is None else known[kept]
    if named["train"] is None and any(named.values()):
        unused = listed(part for part, names in named.items() if names)
        notes = [*notes, f"{place}: the training part has no classes, so those of the {unused} part are not used"]
    return Parts(
        examples["train"],
        examples["test"],
        levels,
        classes["train"],
        classes["test"],
        class_names,
        examples["validation"],
        classes["validation"],
        tuple(notes),
        _conditions_of(found, rows, place),
        captions={
            part: found.parts[source].conditions[CAPTION][kept.numpy()].tolist()
            for part, (source, kept) in rows.items()
            if CAPTION in found.parts["train"].conditions
        },
    )


def _conditions_of(found: Found, rows: Rows, place: str) -> dict[Part, dict[str, Tensor]]:
    """Return, for each part and by name, what its examples are conditioned on beside classes.

    Raises:
        UserError: a part is conditioned on something else than the training part.
    """
    of_train = found.parts["train"].conditions
    shapes = {name: array.shape[1:] for name, array in of_train.items()}
    for part, examples_of in found.parts.items():
        here = {name: array.shape[1:] for name, array in examples_of.conditions.items()}
        if here != shapes:
            raise UserError(
                f"{place}: the {part} part has conditions of shape {here or 'none'}, but the training part "
                f"{shapes or 'none'}: give the same"
            )
    return {
        part: {
            name: torch.from_numpy(np.ascontiguousarray(array[kept.numpy()]))
            for name, array in found.parts[source].conditions.items()
            if name != CAPTION
        }
        for part, (source, kept) in rows.items()
        if of_train
    }
