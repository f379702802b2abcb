"""How far work has come, on stderr: a bar on a terminal; elsewhere a line now and then, if it takes a while.

    samples: 2 of 10 batches, 7 of 20 calls, 00:35, 01:54 left

Work has parts: batches, examples, pictures. Within a part the calls of the model are what moves: of so many where that
is known, else with the time that the trajectories have come to.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from types import TracebackType

import torch
from torch import Tensor
from tqdm import tqdm

from score_sde.common import distributed

# Seconds until the first line, from each line to the next, and between two states of a bar.
_FIRST, _EVERY, _BAR_EVERY = 5.0, 30.0, 0.1


class Progress:
    """Shows how far a piece of work has come, on the first process; it is entered for the length of the work.

    Args:
        what: the work.
        total: number of parts; None if it is calls alone that count.
        unit: what the parts are, in the singular.
        calls: the number of calls of the model in each part, where known.
        even: whether one part takes about as long as another, so that the time left can be told.
        shown: whether to show anything.

    Attributes:
        what, calls: the work and its calls in each part, which may be changed on the way.
        done: the number of parts that are done.
        note: what else is worth saying.
        num_calls: the number of calls of the model in this part so far.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        unit: str = "batch",
        calls: int | None = None,
        even: bool = True,
        shown: bool = True,
    ) -> None:
        self.what, self.calls, self.note = what, calls, ""
        self.done, self.num_calls = 0, 0
        self._total, self._unit, self._even = total, unit, even
        self._shown = shown and distributed.rank() == 0
        self._found = 0
        self._t = torch.zeros(())

    def __enter__(self) -> Progress:
        # tqdm takes None to mean that the bar is hidden unless stderr is a terminal.
        hidden = None if self._shown else True
        unit = " calls" if self._total is None else self._unit
        self._bar = tqdm(total=self._total, unit=unit, desc=self.what, dynamic_ncols=True, disable=hidden)
        self._started = self._changed = _now()
        self._next = math.inf if not self._shown else self._started + (_FIRST if self._bar.disable else 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._bar.disable:
            self._draw()
        self._bar.close()

    def update(self, count: int = 1, note: str | None = None, found: bool = False) -> None:
        """Count so many more parts as done, or as `found` done by an earlier run."""
        self.done += count
        self._found += count if found else 0
        self.num_calls = 0
        self.note = self.note if note is None else note
        self._changed = _now()
        self._show()

    def call(self, t: Tensor) -> None:
        """Count a call of the model, at times `t` of any shape."""
        self.num_calls += 1
        self._t = t
        self._show()

    def _show(self) -> None:
        now = _now()
        if now < self._next:
            return
        if self._bar.disable:
            self._next = now + _EVERY
            # Work does not end because a file of messages cannot grow.
            with suppress(OSError):
                print(self._line(now - self._started), file=sys.stderr, flush=True)
        else:
            self._next = now + _BAR_EVERY
            self._draw()

    def _draw(self) -> None:
        reached = self.num_calls if self._total is None else round(self._reached, 2)
        self._bar.n = int(reached) if reached == int(reached) else reached
        self._bar.desc = self.what
        calls = [] if self._total is None else self._calls()
        self._bar.set_postfix_str(", ".join([*calls, *([self.note] if self.note else [])]))

    def _line(self, elapsed: float) -> str:
        parts = [] if self._total is None else [f"{self.done} of {self._total} {_plural(self._unit, self._total)}"]
        parts += [*self._calls(), *([self.note] if self.note else []), tqdm.format_interval(elapsed)]
        left = self._left(elapsed)
        if left is not None:
            parts.append(f"{tqdm.format_interval(left)} left")
        return f"{self.what}: {', '.join(parts)}"

    def _calls(self) -> list[str]:
        if not self.num_calls:
            return []
        if self.calls is not None:
            return [f"{self.num_calls} of {self.calls} calls"]
        calls = f"{self.num_calls} {_plural('call', self.num_calls)}"
        return [calls if self._total is None else f"{calls}, t = {_range(self._t)}"]

    @property
    def _reached(self) -> float:
        """The number of parts done includes a share of the present part, where that is known."""
        return self.done + (min(self.num_calls / self.calls, 1.0) if self.calls else 0.0)

    def _left(self, elapsed: float) -> float | None:
        """Return the seconds that are left, judged by the parts so far; None where they say nothing."""
        made = self._reached - self._found
        if self._total is None or not self._even or made <= 0:
            return None
        since = 0.0 if self.calls else _now() - self._changed
        return max(0.0, (elapsed - since) * (self._total - self._reached) / made - since)


def _range(t: Tensor) -> str:
    """Write the times that a call is at, from the least to the largest."""
    low, high = (f"{float(end):.3g}" for end in t.detach().aminmax())
    return low if low == high else f"{low} to {high}"


def _plural(unit: str, count: int) -> str:
    return unit if count == 1 else f"{unit}es" if unit.endswith(("ch", "s")) else f"{unit}s"


def _now() -> float:
    return time.monotonic()
