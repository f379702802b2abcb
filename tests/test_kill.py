"""Runs that are killed at random moments end as if they had not been: `make slow` has more."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from score_sde.training import checkpoint
from tests.processes import NO_GPU
from tests.reading import ROOT, table

KILLS = int(os.environ.get("KILLS", "1"))
# Long enough to be killed so often.
STEPS, EXAMPLES = 150 * KILLS, min(1400, 30 + 60 * KILLS)
SHORT = {
    "model.channels": "8",
    "model.num_blocks": "1",
    "training.num_steps": str(STEPS),
    "training.batch_size": "16",
    "training.checkpoint_every": "10",
    "training.keep_checkpoints": "999",
    "training.log_every": "5",
    "training.evaluate_every": "0",
    "training.sample_every": "0",
    "training.warmup_steps": "5",
}
MEASURE = {
    "likelihood.split": "train",
    "likelihood.batch_size": "10",
    "likelihood.num_examples": str(EXAMPLES),
    "likelihood.num_checks": "0",
    "likelihood.bounds": "continuous",
}
# Of wall-clock time, which no two runs share.
TIMED = "images_per_second"


def start(mode: str, folder: Path, values: dict[str, str], *more: str) -> subprocess.Popen:
    arguments = [f"--config.{key}={value}" for key, value in values.items()]
    command = [sys.executable, "main.py", "--mode", mode, "--workdir", str(folder), *arguments, *more]
    # A GPU adds up the gradients of convolutions in an order that no two runs share.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **NO_GPU}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    with process:
        try:
            _, errors = process.communicate(timeout=200 + 60 * KILLS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors.decode()


def stamps(folder: Path, pattern: str) -> dict[str, int]:
    """Return when each complete file was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern) if not path.name.startswith(".")}


def killed(mode: str, folder: Path, values: dict[str, str], written: Path, pattern: str, *more: str) -> int:
    """Run, kill after a while, run again, …, and at last to the end; return how often a killed run had written more.

    Each run is killed a little after some files were written. What was written before stays as it is.
    """
    generator, hits = random.Random(0), 0
    for _ in range(KILLS):
        before = stamps(written, pattern)
        process = start(mode, folder, values, *more)
        deadline = time.monotonic() + 60
        wanted = generator.randint(0, 2)
        while len(stamps(written, pattern)) < len(before) + wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.2) if wanted else generator.uniform(0, 5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        after = stamps(written, pattern)
        assert {name: after.get(name) for name in before} == before
        hits += len(after) > len(before)
    before = stamps(written, pattern)
    finish(start(mode, folder, values, *more))
    if mode == "train":
        assert {name: stamp for name, stamp in stamps(written, pattern).items() if name in before} == before
    return hits


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run of training and likelihood that was never killed."""
    folder = tmp_path_factory.mktemp("straight")
    finish(start("train", folder, SHORT))
    finish(start("likelihood", folder, MEASURE))
    return folder


def test_training(straight, tmp_path):
    hits = killed("train", tmp_path, SHORT, tmp_path / "checkpoints", "step_*.pt")
    assert hits >= KILLS // 3
    one, other = (checkpoint.load(checkpoint.path_at(folder / "checkpoints", STEPS)) for folder in (straight, tmp_path))
    for part in ("model", "ema"):
        assert all(torch.equal(tensor, other[part][name]) for name, tensor in one[part].items())
    for number, moments in one["optimizer"]["state"].items():
        assert all(torch.equal(tensor, other["optimizer"]["state"][number][name]) for name, tensor in moments.items())
    assert one["ema_updates"] == other["ema_updates"] == STEPS
    tables = [table(folder / "metrics.csv") for folder in (straight, tmp_path)]
    assert [{k: v for k, v in row.items() if k != TIMED} for row in tables[0]] == [
        {k: v for k, v in row.items() if k != TIMED} for row in tables[1]
    ]


def test_likelihood(straight, tmp_path):
    newest = checkpoint.latest(straight / "checkpoints")
    unfinished = tmp_path / "likelihood" / "train.unfinished"
    killed("likelihood", tmp_path, MEASURE, unfinished, "*.npz", "--checkpoint", str(newest))
    table = "likelihood/train.csv"
    assert (tmp_path / table).read_text() == (straight / table).read_text()
