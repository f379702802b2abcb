"""Checkpoints: whole or not at all, and never code."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.common.resumable import digest
from score_sde.common.weight_files import load_weights
from score_sde.training import checkpoint
from tests.reading import ROOT


def state(value: float = 1.0) -> dict:
    return {"step": 3, "model": {"weight": torch.full((1000,), value)}, "config": {"seed": 0, "list": (1, None, "a")}}


def test_what_was_saved_comes_back(tmp_path):
    path = checkpoint.path_at(tmp_path / "checkpoints", 3)
    checkpoint.save(state(), path)
    found = checkpoint.load(path)
    assert found["step"] == 3
    assert found["config"] == {"seed": 0, "list": (1, None, "a")}
    assert torch.equal(found["model"]["weight"], torch.ones(1000))


def test_a_file_cut_off_anywhere_is_a_user_error(tmp_path):
    path = tmp_path / "step_0000003.pt"
    checkpoint.save(state(), path)
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 97), *range(len(whole) - 30, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"step_0000003\.pt: it is (truncated|damaged)"):
            checkpoint.load(path)


def test_a_flipped_bit_among_the_weights_is_a_user_error(tmp_path):
    path = tmp_path / "step_0000003.pt"
    checkpoint.save(state(), path)
    content = bytearray(path.read_bytes())
    middle = content.find(torch.ones(8).numpy().tobytes()) + 400
    content[middle] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)


def test_weights_alone_come_back_and_mistakes_are_noticed(tmp_path):
    """In the format of safetensors: whole, cut off anywhere, with a flipped bit, or from somebody else."""
    path = tmp_path / "step_0000003.safetensors"
    weights = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.ones(200)}
    checkpoint.save_weights(weights, {"seed": 3}, path)
    found, config, _ = checkpoint.load_weights_file(path)
    assert config == {"seed": 3}
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="it is truncated"):
            checkpoint.load_weights_file(path)
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(UserError, match="it is damaged"):
        checkpoint.load_weights_file(path)
    safetensors.torch.save_file({"a": torch.ones(2)}, path)
    with pytest.raises(UserError, match="not of this project"):
        checkpoint.load_weights_file(path)
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.load_weights_file(tmp_path / "missing.safetensors")


_SAVE = """
import sys, pathlib, torch
from score_sde.training import checkpoint
weights = {name: torch.ones(3) for name in ("b", "a", "c")}
checkpoint.save_weights(weights, {"seed": 3, "model": {"width": 4}}, pathlib.Path(sys.argv[1]))
"""


def test_the_same_weights_have_the_same_bytes_whichever_process_wrote_them(tmp_path):
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        weights = {name: torch.ones(3) for name in ("a", "b", "c")}
        checkpoint.save_weights(weights, {"model": {"width": 4}, "seed": 3}, path)
    other = tmp_path / "other.safetensors"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", _SAVE, other], env=environment, check=True)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {other.read_bytes()}


def test_weights_that_an_earlier_version_wrote_are_read(tmp_path):
    path = tmp_path / "step_0000003.safetensors"
    weights = {"a": torch.ones(3)}
    about = {"config": '{"seed": 3}', "digest": digest(weights["a"])}
    safetensors.torch.save_file(weights, path, about)
    found, config, _ = checkpoint.load_weights_file(path)
    assert config == {"seed": 3}
    assert torch.equal(found["a"], weights["a"])


def test_other_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "missing.pt")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        checkpoint.load(tmp_path / "other.pt")


def test_reading_runs_no_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    path = tmp_path / "step_0000003.pt"
    checkpoint.save({**state(), "step": 3}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, pickle.dumps(Attack(), protocol=2) if name.endswith("data.pkl") else content)
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        checkpoint.load(path)
    assert not (tmp_path / "attacked").exists()


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "step_0000003.pt"
    checkpoint.save(state(1.0), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*step_0000003\.pt"):
            checkpoint.save(state(2.0), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(checkpoint.load(path)["model"]["weight"], torch.ones(1000))
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_the_newest_are_kept(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for step in (999_999_9, 12_000_000, 5):
        checkpoint.path_at(tmp_path, step).touch()
    (tmp_path / ".step_0000005.abcd.pt").touch()
    assert checkpoint.latest(tmp_path) == checkpoint.path_at(tmp_path, 12_000_000)
    checkpoint.clear(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"step_9999999.pt", "step_12000000.pt"}
    for step in range(10, 70, 10):
        checkpoint.path_at(tmp_path / "more", step).parent.mkdir(exist_ok=True)
        for suffix in (".pt", ".safetensors"):
            checkpoint.path_at(tmp_path / "more", step).with_suffix(suffix).touch()
    checkpoint.clear(tmp_path / "more", 1, every=20)
    kept = {path.name for path in (tmp_path / "more").iterdir()}
    assert kept == {f"step_00000{step}{suffix}" for step in (20, 40, 60) for suffix in (".pt", ".safetensors")}


def test_the_first_mismatch_of_weights_is_named():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match=r"file does not fit this network: it has no 0\.bias \(3,\)"):
        load_weights(network, {k: v for k, v in weights.items() if k != "0.bias"}, "file")
    with pytest.raises(UserError, match=r"1\.weight has shape \(1, 4\), the network needs \(1, 3\)"):
        load_weights(network, {**weights, "1.weight": torch.ones(1, 4)}, "file")
    with pytest.raises(UserError, match=r"it has 2\.weight, which the network lacks"):
        load_weights(network, {**weights, "2.weight": torch.ones(1)}, "file")
    load_weights(network, weights, "file")
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in weights.items())
