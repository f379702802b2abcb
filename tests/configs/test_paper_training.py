"""The paper's configurations train: on local files of CIFAR-10, and on folders of images."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from score_sde import __main__ as main

TINY = ["--config.model.channels=8", "--config.model.num_blocks=1", "--config.training.batch_size=2"]
SHORT = ["--config.training.num_steps=2", "--config.training.sample_every=0"]


def run(*arguments: object) -> int:
    """Return the exit code of `python main.py` with these arguments, in this process."""
    with flagsaver.flagsaver():
        return main.main(main.parse(["main.py", *map(str, arguments)]))


@pytest.fixture
def cifar10(tmp_path):
    """A folder with CIFAR-10's files, of four random pictures each."""
    folder = tmp_path / "datasets" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        pictures = np.frombuffer(random.Random(name).randbytes(4 * 3072), np.uint8).reshape(4, 3072)
        (folder / name).write_bytes(pickle.dumps({b"data": pictures, b"labels": [0, 1, 2, 3]}, protocol=2))
    return folder.parent


@pytest.mark.parametrize(
    "config", ["vp/cifar10_ddpmpp_continuous", "subvp/cifar10_ncsnpp_continuous", "ve/cifar10_ddpm"]
)
def test_steps_on_local_cifar10(config, cifar10, tmp_path, capsys):
    workdir = tmp_path / "run"
    arguments = ["--workdir", workdir, "--config", f"configs/{config}.py", f"--config.data.folder={cifar10}"]
    assert run("--mode=train", *arguments, *TINY, *SHORT) == 0
    assert "on 20 cifar10" in capsys.readouterr().out
    assert (workdir / "checkpoints" / "step_0000002.pt").exists()
    assert json.loads((workdir / "config.json").read_text())["model"]["channels"] == 8


def test_what_to_download(tmp_path, capsys):
    arguments = ["--config", "configs/vp/cifar10_ddpmpp_continuous.py", f"--config.data.folder={tmp_path / 'data'}"]
    assert run("--mode=train", "--workdir", tmp_path / "run", *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in line
    assert str(tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1") in line


def test_steps_on_a_folder_of_images(tmp_path):
    folder = tmp_path / "datasets" / "celeba" / "train"
    folder.mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (218, 178, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    arguments = ["--config", "configs/ve/celeba_ncsnpp.py", f"--config.data.folder={folder.parent.parent}"]
    assert run("--mode=train", "--workdir", tmp_path / "run", *arguments, *TINY, *SHORT) == 0
    assert (tmp_path / "run" / "checkpoints" / "step_0000002.pt").exists()
