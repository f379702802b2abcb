"""Signals that ask for an end, noted so that work can stop where it suits it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def note_signals() -> Iterator[list[int]]:
    """Within the block, the first Ctrl-C or SIGTERM is only added to the list; a second one acts as it does outside."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield received
    finally:
        restore()
