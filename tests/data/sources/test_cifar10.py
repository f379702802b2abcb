"""The reader of CIFAR-10's files: what it reads, and what it refuses."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import load_dataset

FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
PER_FILE = 3


def pictures(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (PER_FILE, 3072), dtype=np.uint8)


def python_2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """The bytes that Python 2 and NumPy 1 write for `{"data": data, "labels": labels}`: the published files' format."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)  # BININT

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + integer(0) + integer(1) + b"\x87R"  # TUPLE3, REDUCE
    dtype += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"  # TUPLE, BUILD
    raw = data.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + text(b"b") + b"\x87R"
    array += b"(" + integer(1) + integer(data.shape[0]) + integer(data.shape[1]) + b"\x86" + dtype + b"\x89"
    array += b"T" + struct.pack("<i", len(raw)) + raw + b"tb"  # BINSTRING
    numbers = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for number, name in enumerate(FILES):
        labels = [(number + k) % 3 for k in range(PER_FILE)]
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(python_2_pickle(pictures(number), labels))
    return tmp_path


def test_reads_the_published_format(folder: Path) -> None:
    dataset = load_dataset("cifar10", folder=folder, validation=3)
    whole = load_dataset("cifar10", folder=folder)
    assert (whole.train.shape, whole.train.dtype) == ((15, 3, 32, 32), torch.uint8)
    assert (whole.levels, whole.shape) == (256, (3, 32, 32))
    expected = np.concatenate([pictures(number) for number in range(5)])
    assert np.array_equal(whole.train.flatten(1).numpy(), expected)
    assert np.array_equal(whole.test.flatten(1).numpy(), pictures(5))
    # Rows are red, green and blue planes, each a picture row by row.
    assert whole.train[4, 1, 2, 3] == expected[4, 1024 + 2 * 32 + 3]
    # Classes are equally frequent, and so they are in the validation part.
    assert (len(dataset.train), len(dataset.validation)) == (12, 3)


def test_reads_arrays_pickled_by_python_3(folder: Path) -> None:
    path = folder / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps({b"data": pictures(7), b"labels": [0, 1, 2]}, protocol=4))
    assert np.array_equal(load_dataset("cifar10", folder=folder).test.flatten(1).numpy(), pictures(7))


class Malicious:
    """Makes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_refuses_to_run_code(folder: Path, protocol: int) -> None:
    trace = folder / "trace"
    content = pickle.dumps({b"data": Malicious(trace), b"labels": [0]}, protocol=protocol)
    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    with pytest.raises(UserError, match=r"data_batch_1 is not a batch of CIFAR-10 \(it asks for"):
        load_dataset("cifar10", folder=folder)
    assert not trace.exists()


def test_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        load_dataset("cifar10", folder=tmp_path)
    message = str(raised.value)
    assert "cifar-10-python.tar.gz" in message
    assert f"unpack it in {tmp_path} " in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["truncated", "other shape", "no picture", "empty"])
def test_damaged_files_are_named(folder: Path, damage: str) -> None:
    path = folder / "cifar-10-batches-py" / "data_batch_3"
    content = {
        "truncated": path.read_bytes()[:1000],
        "other shape": python_2_pickle(pictures(0)[:, :100], [0, 1, 2]),
        "no picture": pickle.dumps({b"labels": [1]}, protocol=2),
        "empty": b"",
    }[damage]
    path.write_bytes(content)
    with pytest.raises(UserError, match="data_batch_3 is not a batch of CIFAR-10"):
        load_dataset("cifar10", folder=folder)
