"""Files of weights: what is read, what is refused and in which words, and never any code."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.common.weight_files import check_finite, load_weights, read_safetensors, read_torch, unwrapped
from score_sde.models import DDPM
from score_sde.models.pretrained.score_sde import copy_weights, read_checkpoint
from score_sde.models.pretrained.score_sde_names import reference_tensors
from score_sde.training import checkpoint

ONLY = (
    "only tensors, NumPy arrays, numbers, words, and lists and dicts of them are read, since anything else could run "
    "code: save it again without that"
)
UNREADABLE = "it is truncated, damaged, or not a checkpoint"


def line(path: pathlib.Path) -> str:
    """Return what is said, after its name, of a file that is not read; it must be one line, without escape codes."""
    with pytest.raises(UserError) as error:
        read_torch(path)
    message = str(error.value)
    assert message.isprintable()
    start = f"cannot read the checkpoint {path}: "
    assert message.startswith(start)
    return message.removeprefix(start)


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


class Evaluated:
    def __reduce__(self):
        return eval, ("1",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(rate=1), "argparse.Namespace"),
        (pathlib.PurePosixPath("a"), f"{pathlib.PurePosixPath.__module__}.PurePosixPath"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.random.default_rng(0), "numpy.random._pickle.__generator_ctor"),
        (np.array([Attack()], dtype=object), "posix.mkdir"),
        (Attack(), "posix.mkdir"),
        (Evaluated(), "builtins.eval"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_data_is_named(value, name, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(1), "x": value}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert line(tmp_path / "a.pt") == f"it holds more than data, namely {name}; {ONLY}"
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_numpy_beside_the_weights_is_passed_over(zipped, tmp_path):
    beside = {
        "array": np.arange(6.0).reshape(2, 3),
        "strided": np.arange(6).reshape(2, 3).T[:, ::2],
        "scalar": np.float32(1.5),
        "type": np.dtype("int16"),
        "record": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        "words": np.array(["a", "b"], dtype=object),
        "state of a generator": np.random.RandomState(0).get_state(),
    }
    torch.save({"w": torch.arange(3.0), "beside": beside}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read_torch(tmp_path / "a.pt")
    assert torch.equal(found["w"], torch.arange(3.0))
    assert found["beside"].keys() == beside.keys()


def test_a_numpy_array_for_a_weight_is_named(tmp_path):
    contents = {"model": {"a": torch.ones(1), "b": np.ones(1)}, "ema": {"shadow_params": []}}
    torch.save(contents, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth has 'b' among its weights, which is not a tensor$"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is truncated, or damaged: the file is empty"),
        (b"\n<!DOCTYPE html><html>", "it is not a checkpoint but a web page: download the file itself"),
        (b"\x02\0\0\0\0\0\0\0{}", "it is a .safetensors file, so call it that"),
        (b"<html><body>", "it is not a checkpoint but a web page: download the file itself"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
            "it only says where Git LFS keeps the file: fetch that (git lfs pull)",
        ),
        (pickle.dumps({"model": 1.0}, protocol=0), f"{UNREADABLE} (pickles are read as torch.save writes them unless"),
        (pickle.dumps({"model": 1.0}, protocol=5), f"{UNREADABLE} (pickles are read as torch.save writes them unless"),
        (pickle.dumps(Attack(), protocol=0), "it holds more than data, namely posix.mkdir; only tensors"),
        (b"\x80\x02}q\x00.", UNREADABLE),
        (b"PK\x03\x04 cut off", UNREADABLE),
        (b"weights", UNREADABLE),
    ],
)
def test_what_never_was_a_checkpoint_gets_one_line(content, said, tmp_path, capfd):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert line(path).startswith(said)
    assert capfd.readouterr() == ("", "")
    if content.startswith((b"\n<", b"<", b"version")) or not content:
        with pytest.raises(UserError) as error:
            read_safetensors(path)
        assert str(error.value).endswith(said)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_archive_gets_one_line(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(tmp_path / "a.pt"))
    assert line(tmp_path / "a.pt") == "it is a program (TorchScript), not weights"


def test_a_flipped_bit_of_a_published_checkpoint_is_noticed(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": {"a": torch.arange(1000.0)}, "ema": {"shadow_params": [torch.ones(1)]}}, path)
    content = bytearray(path.read_bytes())
    content[content.find(torch.arange(100.0, 200.0).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    assert line(path) == "it is damaged"


@pytest.mark.parametrize(
    "name",
    [
        "{}",
        "module.{}",
        "_orig_mod.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "model.module.{}",
        "module.model._orig_mod.module.module.{}",
        "_fsdp_wrapped_module._orig_mod.{}",
    ],
)
def test_wrappers_are_taken_off_names(name):
    weights = {"all_modules.0.weight": torch.zeros(1), "sigmas": torch.ones(1)}
    assert unwrapped({name.format(key): tensor for key, tensor in weights.items()}, "") == weights


def test_wrappers_of_parts_are_taken_off_names_and_other_names_left():
    names = ["0._orig_mod.weight", "a._checkpoint_wrapped_module.b.bias", "my_module.weight", "a.module.b", "modules.a"]
    found = unwrapped({name: torch.zeros(1) for name in names}, "")
    assert list(found) == ["0.weight", "a.b.bias", "my_module.weight", "a.module.b", "modules.a"]


def test_a_weight_by_itself_and_wrapped_is_an_error():
    with pytest.raises(UserError, match=r"^it has a twice, of a network by itself and wrapped"):
        unwrapped({"a": torch.zeros(1), "module.a": torch.ones(1)}, "it")


def test_our_checkpoints_of_wrapped_networks_are_read(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    weights = {f"module._orig_mod.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint.save({"model": weights, "ema": weights, "more_ema": {0.9: weights}, "config": {}}, tmp_path / "a.pt")
    checkpoint.save_weights(weights, {}, tmp_path / "a.safetensors")
    state = checkpoint.load(tmp_path / "a.pt")
    alone, _, _ = checkpoint.load_weights_file(tmp_path / "a.safetensors")
    for found in (state["model"], state["ema"], state["more_ema"][0.9], alone):
        other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        load_weights(other, found, "")
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("value", "what"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (-float("inf"), "infinite")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.complex64])
def test_weights_that_are_no_numbers_are_named(value, what, dtype):
    network = nn.Sequential(nn.Linear(3, 3))
    weights = network.state_dict()
    weights["0.weight"] = weights["0.weight"].to(dtype)
    weights["0.weight"][1, 2] = value
    with pytest.raises(UserError) as error:
        load_weights(network, weights, "a.pt")
    assert str(error.value) == (
        f"a.pt holds no usable weights: 0.weight is {what} in 1 of 9 places; take an earlier or another checkpoint"
    )
    check_finite({"count": torch.ones(1, dtype=torch.int64), "small": torch.ones(1).to(torch.float8_e4m3fn)}, "")


def test_published_weights_that_are_no_numbers_are_named():
    network = DDPM(8, 1, channels=8, channel_multipliers=(1,), num_blocks=1, attention_resolutions=())
    weights: dict[str, Any] = {name: tensor.clone() for name, tensor in reference_tensors(network, "ddpm")}
    copy_weights(network, weights, "ddpm", "positional")
    weights["all_modules.2.bias"][0] = float("nan")
    with pytest.raises(UserError, match=r"all_modules\.2\.bias is NaN in 1 of 8 places"):
        copy_weights(network, weights, "ddpm", "positional")
