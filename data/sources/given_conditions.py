"""What Python says that examples are conditioned on: classes, arrays, or several of them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources.condition_arrays import ONLY, checked, is_of_classes
from score_sde.data.sources.examples import as_array


def by_name(condition: Any) -> Mapping[str, Any]:
    """Return the parts of a condition by name; one without a name is called `condition`."""
    return {
        str(name): values
        for name, values in (condition if isinstance(condition, Mapping) else {ONLY: condition}).items()
    }


def taken_apart(condition: Any, count: int, where: str) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """Return the classes, or None, and the arrays by name, of a condition that Python has.

    Args:
        condition: the class of each example, `(N,)`; numbers `(N, k)` or `(N, C, *size)`, or `(N,)` with a fraction; or
            several of these by name, of which `class` holds classes.
        count: the number of examples.
        where: where the examples are, for complaints.

    Raises:
        UserError: it is none of these.
    """
    classes, arrays = None, {}
    for name, values in by_name(condition).items():
        array = as_array(values)
        if not is_of_classes(name, array):
            arrays[name] = checked(name, array, count, f"{where}, condition {name!r},")
        elif classes is not None:
            raise UserError(f"{where}: the condition has classes twice")
        else:
            classes = array
    return classes, arrays


def tells_classes(condition: Any) -> bool:
    """Return whether a condition that Python has tells classes."""
    return condition is not None and any(
        is_of_classes(name, as_array(values)) for name, values in by_name(condition).items()
    )
