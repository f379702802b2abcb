"""Signals that ask for an end: Ctrl-C and SIGTERM.

Training notes them, so that it can finish its step. Other work is interrupted where it stands, and says what was kept.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from score_sde.common.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds within which a signal is taken for the last one again, handed on by a terminal, by make or by torchrun.
_ECHO = 2.0


@contextmanager
def note_signals() -> Iterator[list[int]]:
    """Within the block, the first Ctrl-C or SIGTERM is only added to the list; a second one acts as it does outside.

    Signals that follow at once are passed over: several processes would otherwise not finish their step.
    """
    received: list[int] = []
    before, is_new = _handlers(), _told_apart()

    def note(number: int, frame: FrameType | None) -> None:
        if not is_new():
            return
        if received:
            _install(before)
            signal.raise_signal(number)
        received.append(number)

    _install(dict.fromkeys(_SIGNALS, note))
    try:
        yield received
    finally:
        _install(before)


@contextmanager
def raise_signals() -> Iterator[None]:
    """Within the block, Ctrl-C and SIGTERM raise `KeyboardInterrupt`, with the signal's number.

    That is no `Exception`, which would in places be taken for a damaged file. Signals that follow at once are passed
    over: they would only cut short what the first one set going.
    """
    outside, is_new = _handlers(), _told_apart()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if is_new():
            raise KeyboardInterrupt(number)

    _install(dict.fromkeys(_SIGNALS, interrupt))
    try:
        yield
    finally:
        _install(outside)


@contextmanager
def keeping(message: Callable[[], str]) -> Iterator[None]:
    """Turn a signal's interrupt of the block into `Stopped`, which says what was kept and how to go on.

    Args:
        message: called when the interrupt comes; returns the line.

    Raises:
        Stopped: a signal came.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise stopped(interrupt, message()) from None


def stopped(interrupt: KeyboardInterrupt, message: str) -> Stopped:
    """Return what an interrupt becomes: `Stopped` with its signal's number, or that of Ctrl-C."""
    return Stopped(message, interrupt.args[0] if interrupt.args else signal.SIGINT)


def _told_apart() -> Callable[[], bool]:
    """Return a function that is called at each signal and says whether it is another one than the last."""
    last = -math.inf

    def is_new() -> bool:
        nonlocal last
        previous, last = last, time.monotonic()
        return last - previous >= _ECHO

    return is_new


def _handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _install(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def nothing_kept(what: str) -> str:
    """Say that nothing is kept of work whose result is written at the end; `what` reads "results are written", say."""
    return f"stopped; nothing new is kept, as {what} when all is there; repeat the command to begin again"
