"""The one exception for mistakes a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

_Value = TypeVar("_Value")
# How torch says so, of which one class of errors is on the GPU alone, and others say much else.
_NO_MEMORY = ("can't allocate memory", "out of memory", "storage size calculation overflowed")


class UserError(ValueError):
    """A mistake in the input: one clear line that says what is wrong, where, and what to do.

    `main.py` prints it without a traceback and exits with code 1. From Python it is a `ValueError`, as any library's.
    Names of files may hold line breaks, and bytes that are no text; they are shown as in Python, `\\n`.
    """

    def __init__(self, line: str) -> None:
        super().__init__(one_line(line))


def one_line(text: str) -> str:
    """A text in which whatever cannot be printed, or would begin another line, is shown as in Python: `\\n`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put a key of the configuration, or where else it was, before what is complained of."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def nearest(name: str, candidates: Iterable[str]) -> str:
    """` (did you mean '…'?)`, naming the candidate spelt most like `name`, or nothing if none is."""
    matches = difflib.get_close_matches(name, list(candidates), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def choose(kind: str, name: str, table: Mapping[str, _Value]) -> _Value:
    """The entry of `table` called `name`.

    Raises:
        UserError: there is none; the line names the nearest and lists them all.
    """
    if name not in table:
        raise UserError(f"no {kind} is called {name!r}{nearest(name, table)}; there are: {', '.join(table)}")
    return table[name]


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that the computer, or its GPU, has not as much memory as was asked for."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _NO_MEMORY)


class Stopped(Exception):  # noqa: N818
    """Work that was stopped by a signal, after putting itself in order; the message says how to go on.

    Args:
        message: one line.
        signal_number: the signal; the exit code is 128 more, as shells have it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
