"""Numbers of a training step that are read late, so that none waits for the device.

A GPU works through what it was told in its own time, behind the program that tells it. To read a number is to wait
until it has come so far, and then it has nothing to do until it is told more: a few percent of every step. So what is
to be known of a step is copied to the CPU when the device comes to it, and read when `DELAY` further steps have been
told; by then it has long been there. The program is never further ahead than that.

    step k told, step k + 1 told, step k + 2 told: read what step k came to

Whatever needs the numbers of all steps so far (a line of the log, a checkpoint) drains the queue, and waits. How late a
number is read follows from the steps alone, not from the clock, so that several processes read the same numbers at the
same step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# The device may be told so many steps before the first of them is read.
DELAY = 2


class _Late(NamedTuple):
    """Tensors of a step are on their way to the CPU, and there once the event has come; None: they are there."""

    step: int
    tensors: list[Tensor]
    copied: torch.cuda.Event | None


class LateReader:
    """Tensors of the last few steps wait here to be read."""

    def __init__(self) -> None:
        self._queue: deque[_Late] = deque()

    def put(self, step: int, tensors: Sequence[Tensor]) -> None:
        """Let the device copy a step's tensors to the CPU when it comes to them."""
        tensors = [tensor.detach() for tensor in tensors]
        copies = [tensor.to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]
        copied = None
        if any(tensor.is_cuda for tensor in tensors):
            copied = torch.cuda.Event()
            copied.record()
        self._queue.append(_Late(step, copies, copied))

    def take(self, drain: bool = False) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield the steps, oldest first, that are old enough to be read (all, to `drain`), each with its tensors."""
        while len(self._queue) > (0 if drain else DELAY):
            step, tensors, copied = self._queue.popleft()
            if copied is not None:
                copied.synchronize()
            yield step, tensors
