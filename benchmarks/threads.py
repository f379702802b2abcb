"""What the default job costs beside other work: seconds and processor time of its first steps, by how threads wait.

    python -m benchmarks.threads

The default job is trained for some steps, alone and beside as many busy loops as there are cores; with threads that
spin briefly before they sleep (`GOMP_SPINCOUNT=20000`, which `main.py` sets), ones that sleep at once, ones that spin
(as OpenMP has them otherwise), and a single thread. Ratios are to the first, alone.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STEPS = 150
_WAYS: dict[str, dict[str, str]] = {
    "spin briefly": {},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def main() -> None:
    """Print a line for each way, alone and beside others."""
    first: tuple[float, float] | None = None
    print(f"| threads that | beside | seconds of {_STEPS} steps | processor seconds |\n|---|---|---|---|")
    for beside in (0, os.cpu_count() or 1):
        with _busy(beside):
            for way, environment in _WAYS.items():
                measured = _measure(environment)
                first = first or measured
                cells = [f"{value:.1f} ({value / base:.2f})" for value, base in zip(measured, first, strict=True)]
                print(f"| {way} | {beside} busy loops | {' | '.join(cells)} |", flush=True)


def _measure(environment: dict[str, str]) -> tuple[float, float]:
    """Return seconds and processor seconds of a short training run, less those of a run of one step."""
    (seconds, processor), (idle, idle_processor) = (_run(environment, steps) for steps in (_STEPS + 1, 1))
    return seconds - idle, processor - idle_processor


def _run(environment: dict[str, str], steps: int) -> tuple[float, float]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    flags = [f"--config.training.{key}" for key in (f"num_steps={steps}", "sample_every=0", "evaluate_every=0")]
    with tempfile.TemporaryDirectory() as folder:
        started, before = time.perf_counter(), _processor()
        command = [sys.executable, "main.py", "--mode=train", f"--workdir={folder}", *flags]
        subprocess.run(command, env=inherited | environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started, _processor() - before


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep so many cores busy for the length of the block."""
    others = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
