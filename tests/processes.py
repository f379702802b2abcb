"""Several processes for a test, on one machine: `torchrun`'s, on GPUs where there are as many, or else on the CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.reading import ROOT

# Of a process that has no GPU.
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def share_one_cpu(processes: int) -> bool:
    """Return whether there are too few GPUs for so many processes to have one each."""
    return torch.cuda.device_count() < processes


@contextmanager
def as_one_of(processes: int) -> Iterator[None]:
    """Compute in this process, for the length of the block, on the device on which so many do."""
    with pytest.MonkeyPatch.context() as patch:
        if share_one_cpu(processes):
            patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def run_together(processes: int, script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script in so many processes that know of each other, which end well and warn of nothing."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1", **(NO_GPU if share_one_cpu(processes) else {})}
    command = [*launcher, *map(str, (script, *arguments))]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    # Libraries have nothing to say to the user.
    assert "Warning" not in ended.stderr
    return ended
