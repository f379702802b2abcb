"""Values of a configuration that are written as text: times of a grid, and options of other libraries by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from score_sde.common.errors import UserError


def read_texts(options: dict[str, Any]) -> dict[str, Any]:
    """Read those options of solvers that are written as text: a grid's list of times, and torchdiffeq's `options`."""
    readers: dict[str, Callable[[str], Any]] = {"grid": read_grid, "options": read_options}
    return {name: readers[name](value) if name in readers else value for name, value in options.items()}


def read_grid(text: str) -> str | list[float]:
    """Read a grid: return its name, or its times as numbers."""
    if text[:1].isalpha():
        return text
    try:
        return [float(time) for time in text.strip("[]() ").split(",")]
    except ValueError:
        raise UserError(f"a grid is a name or a list of times such as 1.0,0.5,0.001, not {text!r}") from None


def read_options(text: str) -> dict[str, str | float]:
    """Read `first_step=0.01,solver=LSODA` into a dictionary, in which numbers are numbers."""
    options: dict[str, str | float] = {}
    for item in text.split(","):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not (name and equals and value):
            raise UserError(f"options are written NAME=VALUE,NAME=VALUE, such as first_step=0.01, not {text!r}")
        try:
            options[name] = int(value) if value.isdigit() else float(value)
        except ValueError:
            options[name] = value
    return options
