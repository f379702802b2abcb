"""Examples that Python has, in every form: the same datasets as from files of the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from score_sde.common.errors import UserError
from score_sde.data import Dataset, arrays_dataset, load_dataset
from score_sde.data.sources import arrays

SPLIT: dict[str, Any] = {"test_share": 0.2, "validation": 0.1, "split_seed": 3, "fold": 1}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def check_equal(one: Dataset, other: Dataset, place: str = "data") -> None:
    """See that two datasets are the same, but for the place that notes tell."""
    for field in vars(one):
        ours, theirs = getattr(one, field), getattr(other, field)
        if field == "units":
            assert type(ours) is type(theirs)
            ours, theirs = ({k: torch.as_tensor(v) if torch.is_tensor(v) else v for k, v in vars(u).items()}
                            for u in (ours, theirs))  # fmt: skip
            for key, value in ours.items():
                assert torch.equal(value, theirs[key]) if torch.is_tensor(value) else value == theirs[key]
        elif field == "notes":
            assert tuple(note.replace("data", place) for note in ours) == theirs
        elif torch.is_tensor(ours):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
        else:
            assert ours == theirs


ARRAYS: dict[str, Callable[[], np.ndarray]] = {
    "vectors": lambda: 5000 + 700 * normal(60, 3),
    "float16": lambda: normal(60, 3).astype(np.float16),
    "whole numbers": lambda: pixels(60, 3).astype(np.int32),
    "series": lambda: normal(60, 2, 8).astype(np.float32),
    "pictures": lambda: pixels(60, 6, 9, 3),
    "dark pictures": lambda: pixels(60, 6, 6) // 16,
    "fields": lambda: pixels(60, 1, 4, 5) / 255,
    "volumes": lambda: pixels(20, 1, 3, 4, 5),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_is_what_a_file_of_it_is(kind, tmp_path):
    array = ARRAYS[kind]()
    np.save(tmp_path / "data.npy", array)
    for options in (SPLIT, {}):
        loaded = load_dataset(path=tmp_path / "data.npy", **options)
        check_equal(arrays_dataset(array, **options), loaded, f"{tmp_path}/data.npy")
        if array.dtype != np.int32:
            check_equal(arrays_dataset(torch.from_numpy(array), **options), loaded, f"{tmp_path}/data.npy")


def test_pictures_are_brought_to_a_size_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", pixels(30, 6, 9, 3))
    options: dict[str, Any] = {"image_size": 4, "image_width": 8, "resize": "pad", "background": "black", **SPLIT}
    loaded = load_dataset(path="data.npy", folder=tmp_path / "cache", **options)
    ours = arrays_dataset(pixels(30, 6, 9, 3), **options)
    assert not (tmp_path / "datasets").exists()
    check_equal(ours, loaded)
    assert ours.notes == ("of 30 pictures, brought to 4 x 8 (height x width), 30 padded; these were 6 x 9",)


class Counted:
    """A dataset as torch has them: a length, and items that are made when they are asked for."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> Any:
        if number >= 30:
            raise AssertionError("this is beyond the end")
        return self.make(number)


class Stream(IterableDataset):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __iter__(self) -> Any:
        return map(self.make, range(30))


Z, LABELS, P = normal(30, 4), ["cat", "dog", "emu"] * 10, pixels(30, 6, 9, 3)
WITHOUT_CLASSES: dict[str, Any] = {
    "list of arrays": list(Z),
    "nested lists": Z.tolist(),
    "tuples": [tuple(row) for row in Z.tolist()],
    "generator of tensors": lambda: (torch.from_numpy(row) for row in Z),
    "one tensor an item": TensorDataset(torch.from_numpy(Z)),
    "dictionaries": Counted(lambda k: {"x": Z[k]}),
    "a dictionary of any name": Counted(lambda k: {"measurement": Z[k]}),
    "a dictionary of arrays": {"x_train": Z},
    "no classes": Stream(lambda k: (Z[k], None)),
}
WITH_CLASSES: dict[str, Any] = {
    "pairs": list(zip(Z, LABELS, strict=True)),
    "lists": [[row, label] for row, label in zip(Z, LABELS, strict=True)],
    "nested lists": [(row, label) for row, label in zip(Z.tolist(), LABELS, strict=True)],
    "counted": Counted(lambda k: (torch.from_numpy(Z[k]), LABELS[k])),
    "stream": Stream(lambda k: (Z[k], LABELS[k])),
    "dictionaries": Counted(lambda k: {"data": Z[k], "label": LABELS[k]}),
    "a dictionary of arrays": {"x": Z, "y": np.array(LABELS)},
}


@pytest.mark.parametrize("kind", WITHOUT_CLASSES)
def test_whatever_gives_examples_gives_the_array_of_them(kind):
    given = WITHOUT_CLASSES[kind]
    ours, theirs = arrays_dataset(given() if callable(given) else given, **SPLIT), arrays_dataset(Z, **SPLIT)
    check_equal(ours, theirs)
    given = given() if callable(given) else given
    check_equal(arrays_dataset(given, LABELS, **SPLIT), arrays_dataset(Z, np.array(LABELS), **SPLIT))


@pytest.mark.parametrize("kind", WITH_CLASSES)
def test_classes_come_with_examples(kind, tmp_path):
    ours, theirs = arrays_dataset(WITH_CLASSES[kind], **SPLIT), arrays_dataset(Z, LABELS, **SPLIT)
    check_equal(ours, theirs)
    assert ours.class_names == ("cat", "dog", "emu")
    np.savez(tmp_path / "data.npz", x=Z, y=np.array(LABELS))
    check_equal(ours, load_dataset(path=tmp_path / "data.npz", **SPLIT), f"{tmp_path}/data.npz[x]")


def test_numbers_for_classes_and_pictures_of_pillow():
    numbers = torch.arange(30) % 3
    data = TensorDataset(torch.from_numpy(P), numbers)
    check_equal(arrays_dataset(data), arrays_dataset(P, numbers))
    photos = Counted(lambda k: {"image": Image.fromarray(P[k]), "label": int(numbers[k]), "url": "x"})
    ours = arrays_dataset(photos)
    assert ours.notes == ("data: what is called url is not read",)
    assert torch.equal(ours.train, arrays_dataset(P, numbers).train)
    assert ours.class_names == ("0", "1", "2")
    assert arrays_dataset(torch.from_numpy(Z).bfloat16()).train.dtype == torch.float32


def test_parts_of_their_own_are_those_of_a_file(tmp_path):
    more: dict[str, Any] = {
        "test_examples": Z[:7] + 1,
        "test_labels": LABELS[:7],
        "validation_examples": torch.from_numpy(Z[:5] - 1),
    }
    parts: dict[str, Any] = {"x_train": Z, "y_train": LABELS, "x_test": Z[:7] + 1, "y_test": LABELS[:7]}
    np.savez(tmp_path / "data.npz", **parts, x_val=Z[:5] - 1)
    check_equal(arrays_dataset(Z, LABELS, **more), load_dataset(path=tmp_path / "data.npz"))
    with pytest.raises(UserError, match=r"data\[test\] has examples of shape \(3,\), but the training part \(4,\)"):
        arrays_dataset(Z, test_examples=Z[:, :3])
    with pytest.raises(UserError, match="data has a test part already"):
        arrays_dataset({"x": Z, "x_test": Z}, test_examples=Z)


def test_frames_are_tables(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": Z[:, 0], "b": Z[:, 1], "label": LABELS})
    frame.to_csv(tmp_path / "data.csv", index=False)
    check_equal(arrays_dataset(frame), load_dataset(path=tmp_path / "data.csv"), f"{tmp_path}/data.csv")


@pytest.mark.parametrize(
    ("x", "complaint"),
    [
        (np.where(Z > 2, np.nan, Z), "data has numbers that are not finite, first in row"),
        (Z * [1, 1, 0, 1], "data: column 2 is 0 in every training example"),
        (np.ma.masked_array(Z, Z > 2), "some numbers are masked"),
        (Z[:, 0], r"float64 numbers of shape \(30,\)"),
        ([Z[0], Z[1, :3]], r"example 1 has float64 numbers of shape \(3,\), but the first float64 of \(4,\)"),
        ([P[0], P[1] / 255], r"example 1 has float64 numbers of shape .*, but the first uint8"),
        ([[1, 2], [3, [4]]], "all as long"),
        ([(Z[0], Z[1])], "example 0, has 2 things: give an example, or an example and its class"),
        ([(Z[0], "cat"), (Z[1], None)], "1 of 2 examples have no class"),
        ([(Z[0], 0.5), (Z[1], 1.5)], "float64 classes: classes are whole numbers from 0, or words"),
        ([{"a": Z[0], "b": Z[1]}], "has a, b: call the example x"),
        ([], "data has no examples"),
        ({"stuff": Z}, "call that of training examples x_train"),
        ("photos", "str is neither an array"),
        (7, "int is neither an array"),
        (DataLoader(TensorDataset(torch.from_numpy(Z))), "not a DataLoader of it"),
        ([Image.fromarray(P[0]).convert("P")], "Pillow's mode L or RGB, not P"),
    ],
)
def test_what_is_no_data_is_refused(x, complaint):
    with pytest.raises(UserError, match=complaint):
        arrays_dataset(x)


def test_classes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"classes of shape \(29,\) for 30 examples"):
        arrays_dataset(Z, LABELS[1:])
    with pytest.raises(UserError, match="data has classes already"):
        arrays_dataset(WITH_CLASSES["pairs"], LABELS)


def test_an_array_that_is_mapped_and_large_stays_in_files(tmp_path, monkeypatch):
    np.save(tmp_path / "own.npy", normal(200, 3))
    mapped = np.load(tmp_path / "own.npy", mmap_mode="r")
    folder = tmp_path / "cache"
    whole = arrays_dataset(mapped, folder=folder)
    assert not folder.exists()
    monkeypatch.setattr(arrays, "LARGE", 0)
    for rows in (slice(None), slice(1, None)):
        ours = arrays_dataset(mapped[rows], folder=folder)
        check_equal(ours, arrays_dataset(normal(200, 3)[rows], folder=folder))
    assert torch.equal(whole.train, arrays_dataset(mapped, folder=folder).train)
    assert len(list(Path(folder).rglob("train.npy"))) == 2
