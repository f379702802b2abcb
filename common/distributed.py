"""Several processes side by side, as `torchrun main.py …` starts them; a single process is a group of one.

Work is dealt out in chunks of a fixed size, `r, r + W, r + 2W, …` to rank `r` of `W`, so that results do not depend on
`W`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that torchrun started, if any, for the length of the block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    device()
    # Others wait as long as one of them prepares data.
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=6))
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """This process's GPU if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    gpu = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(gpu)
    return gpu


def say(message: str) -> None:
    """Print a line, once for all processes."""
    if rank() == 0:
        print(message, flush=True)


def note(message: str) -> None:
    """Print a note on stderr, once for all processes."""
    if rank() == 0:
        print(f"note: {message}", file=sys.stderr, flush=True)


def share(items: Sequence[_T]) -> Sequence[_T]:
    """This process's part of `items`."""
    return items[rows()]


def rows(part: int = 0, parts: int = 1) -> slice:
    """Which rows of something are this process's; or of these, one of `parts` alike, those with the number `part`."""
    return slice(rank() + part * world_size(), None, parts * world_size())


def gather(results: list[Any]) -> list[Any]:
    """All processes' results for their `share` of a sequence, in the sequence's order, on every process."""
    if world_size() == 1:
        return results
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, results)
    return [part[row] for row in range(max(map(len, parts))) for part in parts if row < len(part)]


def mean(values: Tensor) -> Tensor:
    """Mean over the processes of a tensor that each of them has."""
    if world_size() > 1:
        dist.all_reduce(values)
        values = values / world_size()
    return values


def broadcast(values: list[Any]) -> list[Any]:
    """The first process's values, on every process."""
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values


@contextmanager
def one_first() -> Iterator[None]:
    """One process of each machine goes through the block before the others, which find what it has made."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not first:
        barrier()
    yield
    if first:
        barrier()


def barrier() -> None:
    """Wait for the others."""
    if world_size() > 1:
        dist.barrier()
