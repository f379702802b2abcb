"""Ctrl-C and SIGTERM in every mode: one line that says what was kept, an exit code, and no half-written file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_sde.common import interruption
from score_sde.common.errors import Stopped
from score_sde.common.interruption import keeping, note_signals, raise_signals
from score_sde.common.progress import Progress
from score_sde.data import load_dataset
from tests.modes.test_main import run

# Known exactly, and needs no training.
POINTS = ["--config=configs/vp/eight_gaussians.py", "--config.model.network=mixture", "--config.model.num_components=2"]
DIGITS = ["--config=configs/vp/digits.py", "--config.model.network=mixture", "--config.model.num_components=1"]
EDIT = ["--config.edit.input=test:0", "--config.edit.num_samples=2", "--config.edit.num_steps=3"]
LIKELIHOOD = ["num_examples=6", "batch_size=2", "bounds=()", "method=adams", "num_steps=4", "num_checks=2"]
BOTH = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def after(monkeypatch, method: str, count: int, number: int) -> None:
    """Send this process a signal, and at once the same again, in so many calls of a method of `Progress`."""
    whole, calls = getattr(Progress, method), 0

    def counted(self, *arguments) -> None:
        nonlocal calls
        calls += 1
        whole(self, *arguments)
        if calls == count:
            try:
                send(number)
            finally:
                send(number)

    monkeypatch.setattr(Progress, method, counted)


def temporary(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def stop(capsys, *arguments: object) -> tuple[int, list[str]]:
    """Return the exit code of a run that is interrupted, and its lines on stderr."""
    capsys.readouterr()
    code = run(*map(str, arguments))
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("number", "code"), BOTH)
def test_a_signal_ends_the_block_and_says_what_was_kept(number, code):
    outside = [signal.getsignal(each) for each, _ in BOTH]
    kept: list[str] = []

    def work() -> None:
        with raise_signals(), keeping(lambda: f"kept {', '.join(kept)}"):
            kept.extend("ab")
            send(number)
            kept.append("c")

    with pytest.raises(Stopped, match=r"^kept a, b$") as stopped:
        work()
    assert stopped.value.exit_code == code
    assert [signal.getsignal(each) for each, _ in BOTH] == outside


def test_a_signal_that_follows_at_once_is_the_same_one(monkeypatch):
    """Later ones interrupt again what is done about the first."""
    seconds = 0.0
    monkeypatch.setattr(interruption.time, "monotonic", lambda: seconds)
    with raise_signals():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        seconds = 1.9
        send(signal.SIGTERM)
        seconds = 4.0
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_training_notes_the_first_signal_and_is_interrupted_by_the_second(monkeypatch):
    seconds = 0.0
    monkeypatch.setattr(interruption.time, "monotonic", lambda: seconds)
    with raise_signals(), note_signals() as received:
        send(signal.SIGTERM)
        seconds = 1.9
        send(signal.SIGINT)
        assert received == [signal.SIGTERM]
        seconds = 4.0
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


NOTHING = "stopped; nothing new is kept, as {} when all is there; repeat the command to begin again"
MODES = [
    (["--mode=sample", *POINTS], NOTHING.format("samples are written")),
    (["--mode=compare", *POINTS, "--config.compare.solvers=ddim"], NOTHING.format("a comparison is written")),
    (["--mode=edit", *DIGITS, *EDIT], NOTHING.format("answers are written")),
    (["--mode=edit", *DIGITS, *EDIT, "--config.edit.task=encode"], NOTHING.format("answers are written")),
    (
        ["--mode=sample", *POINTS, "--config.sampling.solver=tuned", "--config.sampling.num_steps=4"],
        "stopped while tuning samplers, which are not kept; those in {}/tuned.json are; repeat the command to go on",
    ),
]


@pytest.mark.parametrize(("arguments", "line"), MODES)
@pytest.mark.parametrize(("number", "code"), BOTH)
def test_each_mode_says_what_was_kept(tmp_path, monkeypatch, capsys, arguments, line, number, code):
    after(monkeypatch, "call", 3, number)
    assert stop(capsys, *arguments, "--workdir", tmp_path) == (code, [line.format(tmp_path / "tuned")])
    assert list(tmp_path.iterdir()) == []


def test_likelihoods_that_were_measured_are_kept(tmp_path, monkeypatch, capsys):
    arguments = ["--mode=likelihood", *POINTS, "--workdir", tmp_path]
    arguments += [f"--config.likelihood.{option}" for option in LIKELIHOOD]
    folder = tmp_path / "likelihood" / "test.unfinished"
    end = f"which are kept in {folder}; repeat the command to go on"
    with monkeypatch.context() as patch:
        after(patch, "update", 2, signal.SIGTERM)
        assert stop(capsys, *arguments) == (143, [f"stopped after 4 of 6 examples, {end}"])
    assert sorted(path.name for path in folder.iterdir()) == ["0000000.npz", "0000002.npz", "about.json"]
    with monkeypatch.context() as patch:
        patch.setattr("score_sde.experiment.likelihood.check_likelihoods", lambda *arguments: send(signal.SIGTERM))
        assert stop(capsys, *arguments) == (143, [f"stopped after all 6 examples, {end}"])
    assert run(*map(str, arguments)) == 0
    assert not folder.exists()


def test_dequantisation_that_is_being_learned(tmp_path, monkeypatch, capsys):
    after(monkeypatch, "update", 2, signal.SIGTERM)
    options = ["--config.likelihood.dequantisation=variational", "--config.likelihood.flow_steps=150"]
    line = (
        "stopped after 2 of 150 steps of learning dequantisation, which are not kept; repeat the command to begin again"
    )
    assert stop(capsys, "--mode=likelihood", *DIGITS, *options, "--workdir", tmp_path) == (143, [line])
    assert list(tmp_path.iterdir()) == []


def test_what_is_being_written_leaves_nothing(tmp_path, monkeypatch, capsys):
    def half(path, **arrays) -> None:
        Path(path).write_bytes(b"half")
        send(signal.SIGTERM)

    monkeypatch.setattr(np, "savez_compressed", half)
    code, lines = stop(capsys, "--mode=sample", *POINTS, "--workdir", tmp_path)
    assert (code, lines) == (143, [NOTHING.format("samples are written")])
    assert list((tmp_path / "samples").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_pictures_that_are_being_read(tmp_path, monkeypatch, number):
    for name in range(20):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), name, np.uint8)).save(path)

    def load():
        return load_dataset("digits", path=str(tmp_path / "photos"), folder=tmp_path / "cache", image_size=4)

    with monkeypatch.context() as patch, raise_signals():
        after(patch, "update", 5, number)
        with pytest.raises(Stopped, match=r"^stopped while reading pictures: none are kept; repeat the command"):
            load()
    assert temporary(tmp_path) == []
    assert len(load().train) + len(load().test) == 20


def test_before_there_is_anything_to_keep(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("score_sde.experiment.build.make_mixture", lambda *arguments: send(signal.SIGTERM))
    code, lines = stop(capsys, "--mode=sample", *POINTS, "--workdir", tmp_path)
    assert (code, lines) == (143, ["stopped before there was anything to keep; repeat the command"])
