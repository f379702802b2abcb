"""Arrays that are mapped, not loaded: the same numbers, of which none is copied into memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data import Dataset, load_dataset, memory
from score_sde.data.sources import arrays, copies

PARTS = ("train", "validation", "test")


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def read(path: Path, **options: Any) -> Dataset:
    options = {"test_share": 0.2, "validation": 0.1, **options}
    return load_dataset(path=path, folder=path.parent / "cache", **options)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every array for a large one, and a few numbers for a chunk."""
    monkeypatch.setattr(arrays, "LARGE", 0)
    monkeypatch.setattr(copies, "_CHUNK", 1000)
    monkeypatch.setattr(memory, "_AT_ONCE", 100)


def file_mapped_at(tensor: Tensor) -> str:
    """Return the name of the file that the numbers of a tensor lie in; an empty text if they are in plain memory."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        region, *rest = line.split(maxsplit=5)
        start, end = (int(place, 16) for place in region.split("-"))
        if start <= address < end and len(rest) == 5:
            return Path(rest[4]).name
    return ""


CASES = {
    "vectors": lambda: 5000 + 700 * normal(200, 3),
    "series, reversed bytes": lambda: normal(80, 2, 10).astype(">f4"),
    "fields, half": lambda: normal(60, 1, 4, 6).astype(np.float16),
    "whole numbers": lambda: np.random.default_rng(0).integers(0, 99, (50, 3)),
    "pictures": lambda: np.random.default_rng(0).integers(0, 256, (50, 6, 4), dtype=np.uint8),
    "channels last": lambda: np.random.default_rng(0).integers(0, 256, (50, 6, 4, 3), dtype=np.uint8),
    "Fortran order": lambda: np.asfortranarray(normal(60, 3)),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what is mapped")
@pytest.mark.parametrize("kind", CASES)
def test_mapped_arrays_are_those_in_memory(kind, tmp_path, request):
    np.save(tmp_path / "own.npy", CASES[kind]())
    whole = read(tmp_path / "own.npy")
    assert not (tmp_path / "cache").exists()
    request.getfixturevalue("small")
    for _ in range(2):
        mapped = read(tmp_path / "own.npy")
        for part in PARTS:
            ours, theirs = getattr(mapped, part), getattr(whole, part)
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
            assert file_mapped_at(ours) == f"{part}.npy"
            assert not file_mapped_at(theirs).endswith(".npy")
        assert mapped.notes == whole.notes
        if mapped.levels is None:
            for numbers in zip(vars(mapped.units).values(), vars(whole.units).values(), strict=True):
                assert numbers[0] is numbers[1] or torch.equal(*map(torch.as_tensor, numbers))
    request.getfixturevalue("monkeypatch").undo()
    for before, after in zip(memory.memory_of(mapped).values(), memory.memory_of(whole).values(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.usefixtures("small")
def test_what_was_written_is_found_again_unless_something_changed(tmp_path, monkeypatch):
    np.save(tmp_path / "own.npy", normal(50, 3))
    first = read(tmp_path / "own.npy")
    with monkeypatch.context() as patch:
        patch.setattr(copies, "_fill", None)
        assert torch.equal(read(tmp_path / "own.npy").train, first.train)
        with pytest.raises(TypeError):
            read(tmp_path / "own.npy", split_seed=1)
    np.save(tmp_path / "own.npy", 1 + normal(50, 3))
    np.testing.assert_array_equal(read(tmp_path / "own.npy").train, first.train + 1)
    kept = next((tmp_path / "cache").rglob("train.npy"))
    for path in (tmp_path / "cache").rglob("train.npy"):
        path.write_bytes(b"no array")
    with pytest.raises(UserError, match=f"cannot read {kept.parent.parent}.*: remove it, and it is made again"):
        read(tmp_path / "own.npy")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("fault", ["nan", "constant", "full disk"])
def test_what_is_refused_leaves_nothing(fault, tmp_path):
    array = normal(500, 3)
    if fault == "nan":
        array[444, 2] = np.nan
    if fault == "constant":
        array[:, 2] = 4
    np.save(tmp_path / "own.npy", array)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    complaint = {
        "nan": "first in row 444, column 2",
        "constant": "column 2 is 4 in every training example",
        "full disk": r"cannot write .*\.npy: File too large",
    }[fault]
    try:
        if fault == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        with pytest.raises(UserError, match=complaint):
            read(tmp_path / "own.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("small")
def test_large_pictures_can_be_resized(tmp_path, monkeypatch):
    np.save(tmp_path / "own.npy", np.random.default_rng(0).integers(0, 256, (20, 6, 9), dtype=np.uint8))
    mapped = read(tmp_path / "own.npy", image_size=4)
    monkeypatch.undo()
    assert torch.equal(mapped.train, read(tmp_path / "own.npy", image_size=4).train)


@pytest.mark.usefixtures("small")
def test_datasets_of_hdf5_files_are_mapped_if_they_lie_in_one_piece(tmp_path):
    h5py = pytest.importorskip("h5py")
    z = normal(60, 2, 5)
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["other"] = np.zeros(77)
        file["x"] = z
    found = read(tmp_path / "own.h5", test_share=0.0, validation=0)
    np.testing.assert_array_equal(found.train, z)
    assert next((tmp_path / "cache").rglob("train.npy")).stat().st_size > z.nbytes
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.create_dataset("x", data=z, compression="gzip")
    packed = read(tmp_path / "packed.h5", test_share=0.0, validation=0)
    np.testing.assert_array_equal(packed.train, z)
