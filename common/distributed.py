"""Several processes side by side, as `torchrun main.py …` starts them; a single process is a group of one.

And the device on which each of them computes. A single process never asks `torch.distributed` anything, which some
builds of PyTorch lack.

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
from torch import Tensor

from score_sde.common.errors import UserError

_T = TypeVar("_T")

# `torch.distributed` while this process is one of several.
_group: Any = None
# The name of the device that was asked for, if any was.
_chosen: str | None = None


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that torchrun started, if any, for the length of the block.

    Raises:
        UserError: they cannot work together on the device that was asked for.
    """
    global _group
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device().type not in ("cuda", "cpu"):
        raise UserError(f"several processes compute on CUDA's GPUs or on the CPU, not on {device()}: --device cpu")
    import torch.distributed as group

    # A long time, since the others wait while one of them prepares data.
    group.init_process_group("nccl" if device().type == "cuda" else "gloo", timeout=timedelta(hours=6))
    _group = group
    try:
        yield
    finally:
        _group = None
        group.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return _group.get_rank() if _group else 0


def world_size() -> int:
    """Return the number of processes."""
    return _group.get_world_size() if _group else 1


def devices() -> list[str]:
    """Return the names of the devices that there are: `cpu`, and for example `cuda`, `cuda:0`, `cuda:1`, or `mps`."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return ["cpu"]
    kind = accelerator.type
    return ["cpu", kind, *(f"{kind}:{number}" for number in range(torch.accelerator.device_count()))]


def use_device(name: str | None) -> None:
    """Choose the device on which this process computes from here on.

    Args:
        name: one of `devices()`, of which `cuda` is this process's own GPU where torchrun started several; None: `cuda`
            if there is one, or else `cpu`. Apple's `mps` is used when it is asked for.

    Raises:
        UserError: there is no such device, or several processes cannot share it.
    """
    global _chosen
    there = devices()
    if name is not None and name not in there:
        raise UserError(f"there is no device {name!r}; there are: {', '.join(there)}")
    if name is not None and ":" in name and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"several processes cannot share {name}: take {name.partition(':')[0]}, of which each has its own"
        )
    _chosen = name


def device() -> torch.device:
    """Return the device on which this process computes; see `use_device`.

    Raises:
        UserError: there are fewer GPUs than processes on this machine.
    """
    name = _chosen or ("cuda" if torch.cuda.is_available() else "cpu")
    if not name.startswith("cuda"):
        return torch.device(name)
    number = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise UserError(
            f"process {number + 1} of this machine has no GPU, of which there are {torch.cuda.device_count()}: start "
            "fewer with torchrun --nproc-per-node, or take the device cpu"
        )
    gpu = torch.device("cuda", number)
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
    """Return this process's part of `items`: every `W`-th of them, where there are `W` processes."""
    return items[rows()]


def rows(part: int = 0, parts: int = 1) -> slice:
    """Return which rows of a batch are this process's; where it does them in several `parts`, those of one `part`."""
    return slice(rank() + part * world_size(), None, parts * world_size())


def gather(results: list[Any]) -> list[Any]:
    """Return all processes' results for their `share` of a sequence, in the sequence's order, on every process."""
    if world_size() == 1:
        return results
    parts: list[Any] = [None] * world_size()
    _group.all_gather_object(parts, results)
    return [part[row] for row in range(max(map(len, parts))) for part in parts if row < len(part)]


def mean(values: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor that each of them has."""
    if world_size() > 1:
        _group.all_reduce(values)
        values = values / world_size()
    return values


def broadcast(values: list[Any]) -> list[Any]:
    """Return the first process's values on every process."""
    if world_size() > 1:
        _group.broadcast_object_list(values, src=0)
    return values


@contextmanager
def one_first() -> Iterator[None]:
    """Let one process of each machine go through the block before the others, which find what it has made."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not first:
        barrier()
    yield
    if first:
        barrier()


def barrier() -> None:
    """Wait until all processes have come here."""
    if world_size() > 1:
        _group.barrier()
