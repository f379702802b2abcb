"""Tables and HDF5 files: the same numbers as an array of them, with columns named; or refused by column and row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Dataset, load_dataset
from score_sde.data.sources import arrays

pd = pytest.importorskip("pandas")


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def read(path: Path, **options: Any) -> Dataset:
    return load_dataset(path=path, folder=path.parent / "cache", **options)


def frame(**more: Any) -> Any:
    z = normal(30, 3)
    return pd.DataFrame({"height": z[:, 0] + 170, "köln": z[:, 1] * 1e-3, "a b": z[:, 2]} | more)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_are_read_as_the_array_of_their_numbers(suffix, tmp_path):
    table = frame()
    table.to_csv(tmp_path / "own.csv", index=False) if suffix == "csv" else table.to_parquet(tmp_path / "own.parquet")
    np.save(tmp_path / "own.npy", table.to_numpy())
    dataset, same = (read(tmp_path / f"own.{kind}", test_share=0.2) for kind in (suffix, "npy"))
    assert torch.equal(dataset.train, same.train)
    assert torch.equal(dataset.test, same.test)
    assert dataset.train.dtype == torch.float64
    assert dataset.notes == (
        f"{tmp_path}/own.{suffix} has vectors of 3 numbers, its columns height, köln, a b, in this order",
    )


@pytest.mark.parametrize("name", ["class", "Label", "target"])
def test_classes_are_the_column_called_so(name, tmp_path):
    words = ["zebra", "a b", "köln"] * 10
    for values, names in ((words, sorted(words[:3])), ([7, 10, 3] * 10, ["3", "7", "10"])):
        frame(**{name: values}).to_csv(tmp_path / "own.csv", index=False)
        dataset = read(tmp_path / "own.csv", test_share=0.0)
        assert dataset.train.shape == (30, 3)
        assert list(dataset.class_names) == names
        assert dataset.named(dataset.train_classes) == list(map(str, values))
        assert any(f"the column {name} is read as the class" in note for note in dataset.notes)
    # A target of other numbers is a number of the vector.
    frame(**{name: normal(30)}).to_csv(tmp_path / "own.csv", index=False)
    dataset = read(tmp_path / "own.csv", test_share=0.0)
    assert (dataset.train.shape, dataset.num_classes) == ((30, 4), 0)


def test_whole_numbers_are_told_and_small_floats_kept(tmp_path):
    table = frame(children=np.arange(30) % 4)
    table.to_csv(tmp_path / "own.csv", index=False)
    assert any("whole numbers only in column children: discrete" in note for note in read(tmp_path / "own.csv").notes)
    frame().astype("float32").to_parquet(tmp_path / "own.parquet")
    assert read(tmp_path / "own.parquet").train.dtype == torch.float32
    pd.DataFrame({"a": np.arange(30, dtype=np.uint8), "b": np.arange(30, dtype=np.uint8)[::-1]}).to_parquet(
        tmp_path / "own.parquet"
    )
    dataset = read(tmp_path / "own.parquet", test_share=0.0)
    assert (dataset.levels, dataset.train[:, 0].tolist()) == (None, list(range(30)))


BAD = {
    "text": (frame(name=["x"] * 30), r"column name has no numbers, but 'x' and the like"),
    "truths": (frame(smokes=[True, False] * 15), "column smokes has no numbers, but 'True'"),
    "missing": (frame(age=[1.5] * 7 + [None] + [2.5] * 22), "column age has no value in row 7: leave out"),
    "missing classes": (frame(label=["a"] * 3 + [None] * 2 + ["b"] * 25), r"column label has no .* row 3 \(2 are"),
    "infinite": (frame(age=[1.5, np.inf] * 15), "not finite, first in row 1, column age"),
    "constant": (frame(age=3.25), "column age is 3.25 in every training example"),
    "two classes": (frame(label=1, target="x"), "label, target, all of which could be the classes"),
    "only classes": (pd.DataFrame({"label": [1, 2, 3]}), "has no column of numbers, only label"),
    "no rows": (frame().iloc[:0], "has no rows"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_no_vector_can_hold_is_refused_by_its_column(suffix, kind, tmp_path):
    table, complaint = BAD[kind]
    table.to_csv(tmp_path / "own.csv", index=False) if suffix == "csv" else table.to_parquet(tmp_path / "own.parquet")
    with pytest.raises(UserError, match=rf"own\.{suffix}.*{complaint}"):
        read(tmp_path / f"own.{suffix}", test_share=0.0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "there is nothing in it"),
        (b"a,b\n1,2\n3,4,5\n", "not all as many columns"),
        (b"a,b\n1,2,3\n3,4,5\n", "not all as many columns"),
        (b"a,b\n1,2\n3\n", "column b has no value in row 1"),
        (b"1.5,2.5\n3,4\n", "its first line must name them"),
        (b",a\n0,1.5\n1,2.5\n", "a column without a name, number 0"),
        (b"a;b\n1;2\n3;4\n", "columns are separated by commas"),
        (b"a,b\n1,2.5\n\xff\xfe,4\n", "it is not UTF-8 text"),
        (b"a,b\n1,2.5\n1e3x,4\n", "column a has no numbers, but '1' and the like"),
    ],
)
def test_files_that_are_no_tables_are_refused(content, complaint, tmp_path):
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"own\.csv.*{complaint}"):
        read(tmp_path / "own.csv", test_share=0.0)


def test_parquet_files_of_a_folder_are_its_parts(tmp_path):
    (tmp_path / "own").mkdir()
    table = frame()
    table.index = normal(30)
    for name, rows in (("train-0", slice(0, 10)), ("train-1", slice(10, 20)), ("Test", slice(20, 30))):
        table[rows].to_parquet(tmp_path / "own" / f"{name}.parquet")
    dataset = read(tmp_path / "own")
    np.testing.assert_array_equal(dataset.train, table[:20])
    np.testing.assert_array_equal(dataset.test, table[20:])
    # An index that is no row's number is no number of the vector.
    assert any("the index __index_level_0__ is not read" in note for note in dataset.notes)
    table[20:][["köln", "height", "a b"]].to_parquet(tmp_path / "own" / "Test.parquet")
    with pytest.raises(UserError, match="has the columns köln, height, a b, but the training part height, köln, a b"):
        read(tmp_path / "own")


@pytest.fixture
def h5py() -> Any:
    return pytest.importorskip("h5py")


def test_datasets_of_hdf5_files_are_arrays_by_name(h5py, tmp_path, monkeypatch):
    """Whole, packed, in groups, and mapped where they are large."""
    z = normal(20, 2, 5)
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["train/x"] = z[:15]
        file.create_dataset("test/x", data=z[15:], chunks=(2, 2, 5), compression="gzip")
        file["train/labels"] = ["cat", "dog", "emu"] * 5
        file["test/labels"] = np.array([b"cat"] * 5)
        file["mean"] = 3.0
    for large in (2**30, 1):
        monkeypatch.setattr(arrays, "LARGE", large)
        dataset = read(tmp_path / "own.h5")
        np.testing.assert_array_equal(dataset.train, z[:15])
        np.testing.assert_array_equal(dataset.test, z[15:])
        assert dataset.named(dataset.train_classes) == ["cat", "dog", "emu"] * 5
        assert dataset.named(dataset.test_classes) == ["cat"] * 5
        assert f"{tmp_path}/own.h5: arrays mean are not read" in dataset.notes
    with h5py.File(tmp_path / "own.hdf5", "w") as file:
        file["images"] = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
    assert read(tmp_path / "own.hdf5", test_share=0.0).train.flatten().tolist() == list(range(120))


def test_hdf5_files_that_are_damaged_or_reach_outside_are_refused(h5py, tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["x"] = normal(20, 2)
    whole = (tmp_path / "own.h5").read_bytes()
    for length in (0, 7, 50, len(whole) // 2):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.h5"):
            read(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "x")
        file.create_dataset("x_train", (4, 2), "f8", external=[("secret.bin", 0, 64)])
    with pytest.raises(UserError, match=r"own\.h5\[x_train\] lies in other files"):
        read(tmp_path / "own.h5")
