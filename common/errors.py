"""The one exception for mistakes a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

_Value = TypeVar("_Value")
# torch's words for too little memory: only on GPUs has it a class of errors for that.
_NO_MEMORY = ("can't allocate memory", "out of memory", "storage size calculation overflowed")


class UserError(ValueError):
    """A mistake in the input is told by one clear line that says what is wrong, where, and what to do.

    `main.py` prints it without a traceback and exits with code 1. From Python it is a `ValueError`, as any library's.
    Names of files may hold line breaks, and bytes that are no text; they are shown as in Python, `\\n`.
    """

    def __init__(self, line: str) -> None:
        super().__init__(one_line(line))


def one_line(text: str) -> str:
    """Return a text in which whatever cannot be printed, or would begin another line, is shown as in Python: `\\n`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put `what`, such as a key of the configuration, before the message of a `UserError` raised in the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return ` (did you mean '…'?)`, naming the candidate spelt most like `name`, or nothing if none is like it."""
    matches = difflib.get_close_matches(name, list(candidates), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def choose(kind: str, name: str, table: Mapping[str, _Value]) -> _Value:
    """Return the entry of `table` called `name`.

    Raises:
        UserError: there is no such entry; the line, which calls it a `kind`, names the nearest and lists them all.
    """
    if name not in table:
        raise UserError(f"no {kind} is called {name!r}{nearest(name, table)}; there are: {', '.join(table)}")
    return table[name]


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether this error says that the computer, or its GPU, has not as much memory as was asked for."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _NO_MEMORY)


class Stopped(Exception):  # noqa: N818
    """Work was stopped by a signal, after putting itself in order; the message says how to go on.

    Args:
        message: one line that says what was kept and how to go on.
        signal_number: the signal; the exit code is 128 more, as shells have it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def first_line(error: Exception) -> str:
    """Return what an error of a library says first, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].rstrip(".:")
