"""Readers x kinds: the same data in every format, and what real users' files do to them.

A logical dataset is a table: for each word that a user has for a part (`Train`, `val`, `t10k` …) its pictures, each
with a class. `WRITERS` put it into each format; a kind says what is right, whatever the format.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from score_sde.common.errors import UserError
from score_sde.data import Dataset, load_dataset

# Class and seed of the content of each picture, by the user's word for the part.
Table = Mapping[str, Sequence[tuple[int, int]]]
# What class 0, 1, … is called where classes have names; in no order.
NAMES = ("dog", "cat", "emu")


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "png")
    return buffer.getvalue()


def write_folder(table: Table, root: Path) -> Path:
    for word, rows in table.items():
        for kind, seed in rows:
            path = root / "own" / word / NAMES[kind] / f"{seed}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(seed))
    return root / "own"


def write_zip(table: Table, root: Path) -> Path:
    with zipfile.ZipFile(root / "own.ZIP", "w") as archive:
        for word, rows in table.items():
            for kind, seed in rows:
                archive.writestr(f"./own/{word}/{NAMES[kind]}/{seed}.png", png(seed))
    return root / "own.ZIP"


def write_class_first(table: Table, root: Path) -> Path:
    """Write pictures whose class lies above the part: `cat/train/0.png`."""
    for word, rows in table.items():
        for kind, seed in rows:
            path = root / "own" / NAMES[kind] / f"my {word}" / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(seed))
    return root / "own"


def write_npz(table: Table, root: Path) -> Path:
    arrays: dict[str, Any] = {}
    for word, rows in table.items():
        arrays[f"{word}_images"] = np.stack([pixels(seed) for _, seed in rows])
        arrays[f"labels_{word}"] = np.array([kind for kind, _ in rows], np.int16)
    np.savez(root / "own.npz", **arrays)
    return root / "own.npz"


def write_named_npz(table: Table, root: Path) -> Path:
    arrays: dict[str, Any] = {}
    for word, rows in table.items():
        arrays[f"x_{word}"] = np.stack([pixels(seed) for _, seed in rows])
        arrays[f"y_{word}"] = np.array([NAMES[kind] for kind, _ in rows])
    np.savez(root / "own.NPZ", **arrays)
    (root / "own.NPZ.npz").rename(root / "own.NPZ") if (root / "own.NPZ.npz").exists() else None
    return root / "own.NPZ"


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(table: Table, root: Path) -> Path:
    (root / "own").mkdir(exist_ok=True)
    for word, rows in table.items():
        images = idx(np.stack([pixels(seed) for _, seed in rows]))
        labels = idx(np.array([kind for kind, _ in rows], np.uint8))
        (root / "own" / f"qmnist-{word}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (root / "own" / f"qmnist-{word}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return root / "own"


def write_parquet(table: Table, root: Path) -> Path:
    """Write parquet files that each declare classes in an order of their own, so that two cannot be one part."""
    datasets = pytest.importorskip("datasets")
    (root / "own").mkdir(exist_ok=True)
    for place, (word, rows) in enumerate(table.items()):
        used = sorted({NAMES[kind] for kind, _ in rows}, reverse=place > 0)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=used)})
        columns = {
            "image": [{"bytes": png(seed), "path": None} for _, seed in rows],
            "label": [used.index(NAMES[kind]) for kind, _ in rows],
        }
        datasets.Dataset.from_dict(columns, features=features).to_parquet(root / "own" / f"{word}-00000-of-1.parquet")
    return root / "own"


WRITERS: dict[str, Callable[[Table, Path], Path]] = {
    "folder": write_folder,
    "zip": write_zip,
    "class first": write_class_first,
    "npz": write_npz,
    "npz with words": write_named_npz,
    "idx": write_idx,
    "parquet": write_parquet,
}
NUMBERED = ("npz", "idx")
each_reader = pytest.mark.parametrize("reader", WRITERS)


def load(path: Path, tmp_path: Path, **options) -> Dataset:
    return load_dataset(path=path, folder=tmp_path / "cache", image_size=4, num_channels=1, **options)


def classes(dataset: Dataset) -> torch.Tensor:
    """Return the classes of the training part, which must have some."""
    assert dataset.train_classes is not None
    return dataset.train_classes


def contents(examples: torch.Tensor, numbers: torch.Tensor | None, names: tuple[str, ...]) -> set[tuple[bytes, str]]:
    """Return the pictures of a part, each with what its class is called."""
    assert numbers is not None
    called = [names[k] for k in numbers.tolist()]
    return {(row.numpy().tobytes(), name) for row, name in zip(examples, called, strict=True)}


def expected(rows: Sequence[tuple[int, int]], reader: str) -> set[tuple[bytes, str]]:
    return {(pixels(seed).tobytes(), str(kind) if reader in NUMBERED else NAMES[kind]) for kind, seed in rows}


def check_parts(dataset: Dataset, reader: str, **parts: Sequence[tuple[int, int]]) -> None:
    found = {
        "train": contents(dataset.train, dataset.train_classes, dataset.class_names),
        "test": contents(dataset.test, dataset.test_classes, dataset.class_names),
        "validation": contents(dataset.validation, dataset.validation_classes, dataset.class_names),
    }
    assert found == {part: expected(parts.get(part, ()), reader) for part in found}


TRAIN = [(seed % 3, seed) for seed in range(9)]
TEST = [(0, 100), (2, 101)]
VALIDATION = [(2, 200)]


@each_reader
def test_classes_are_numbered_once_by_the_training_part(reader, tmp_path):
    """Dogs and emus alone are tested on, and keep their numbers."""
    dataset = load(WRITERS[reader]({"train": TRAIN, "test": TEST}, tmp_path), tmp_path)
    check_parts(dataset, reader, train=TRAIN, test=TEST)
    assert dataset.class_names == (("0", "1", "2") if reader in NUMBERED else ("cat", "dog", "emu"))


@each_reader
def test_a_class_that_training_lacks_is_refused_by_name(reader, tmp_path):
    path = WRITERS[reader]({"train": [(seed % 2, seed) for seed in range(6)], "test": TEST}, tmp_path)
    with pytest.raises(UserError, match=f"the test part has the class {'2' if reader in NUMBERED else 'emu'}, which"):
        load(path, tmp_path)


@each_reader
@pytest.mark.parametrize(
    "words", [("TRAIN", "Val", "t10k"), ("training", "dev", "Test"), ("Train", "validation", "test")]
)
def test_words_mean_what_they_say(words, reader, tmp_path):
    table = dict(zip(words, (TRAIN, VALIDATION, TEST), strict=True))
    check_parts(load(WRITERS[reader](table, tmp_path), tmp_path), reader, train=TRAIN, validation=VALIDATION, test=TEST)


@each_reader
def test_a_validation_part_is_used_in_place_of_the_one_asked_for(reader, tmp_path):
    path = WRITERS[reader]({"train": TRAIN, "val": VALIDATION, "test": TEST}, tmp_path)
    dataset = load(path, tmp_path, validation=3)
    check_parts(dataset, reader, train=TRAIN, validation=VALIDATION, test=TEST)
    assert any("has a validation part of 1" in note for note in dataset.notes)


@each_reader
def test_without_a_part_to_train_on_data_are_refused(reader, tmp_path):
    with pytest.raises(UserError, match=r"own.*(train)"):
        load(WRITERS[reader]({"val": VALIDATION, "test": TEST}, tmp_path), tmp_path)


@each_reader
def test_two_sources_of_one_part_are_refused_with_a_list(reader, tmp_path):
    path = WRITERS[reader]({"train": TRAIN, "Train2": [(0, 50), (1, 51)], "test": TEST}, tmp_path)
    with pytest.raises(UserError, match="train") as refused:
        load(path, tmp_path)
    assert "Train2" in str(refused.value)


@each_reader
def test_what_is_taken_to_test_on_does_not_move_when_more_is_added(reader, tmp_path):
    first, more = [(seed % 3, seed) for seed in range(30)], [(seed % 3, seed) for seed in range(30, 90)]
    options = {"test_share": 0.2, "validation": 0.1}
    before = load(WRITERS[reader]({"train": first}, tmp_path), tmp_path, **options)
    after = load(WRITERS[reader]({"train": [*first, *more]}, tmp_path), tmp_path, **options)
    for part in ("train", "validation", "test"):
        old, new = ({row.numpy().tobytes() for row in getattr(each, part)} for each in (before, after))
        assert old
        assert old == new & {pixels(seed).tobytes() for _, seed in first}
    # About so many: of 90, a standard deviation of 4.
    assert abs(len(after.test) - 18) < 12


@each_reader
def test_a_class_of_one_example_keeps_it_to_train_on(reader, tmp_path):
    """Thirty pictures of which some classes have few are split all the same."""
    rows = [(0, seed) for seed in range(28)] + [(1, 30), (2, 31)]
    for split_seed in range(5):
        path = WRITERS[reader]({"train": rows}, tmp_path)
        dataset = load(path, tmp_path, test_share=0.5, split_seed=split_seed)
        assert classes(dataset).unique().tolist() == [0, 1, 2]
        assert 5 < len(dataset.test) < 23
        assert len(dataset.train) + len(dataset.test) == 30


@each_reader
def test_every_part_that_is_asked_for_gets_an_example(reader, tmp_path):
    dataset = load(WRITERS[reader]({"train": [(0, 0), (1, 1), (0, 2)]}, tmp_path), tmp_path, test_share=0.001)
    assert (len(dataset.train), len(dataset.test)) == (2, 1)
    path = WRITERS[reader]({"train": [(0, 0), (1, 1), (0, 2)]}, tmp_path)
    with pytest.raises(UserError, match=r"cannot take validation=2 of 2 examples"):
        load(path, tmp_path, test_share=0.001, validation=2)


@pytest.mark.parametrize("reader", ["npz", "idx"])
def test_parts_are_checked_alike(reader, tmp_path):
    """A part of another shape, or of levels that there are not."""
    path = WRITERS[reader]({"train": TRAIN, "test": TEST}, tmp_path)
    if reader == "idx":
        file = path / "qmnist-test-images-idx3-ubyte.gz"
        file.write_bytes(gzip.compress(idx(np.zeros((2, 5, 5), np.uint8))))
        with pytest.raises(UserError, match=r"qmnist-test-images.* of shape \(1, 5, 5\), but the training part"):
            load(path, tmp_path)
        return
    few: dict[str, Any] = {"x_train": np.full((9, 4, 4), 3, np.uint8), "x_val": np.full((2, 4, 4), 7, np.uint8)}
    np.savez(path, **few)
    with pytest.raises(UserError, match=r"x_val\] has levels up to 7: give levels=8 or more"):
        load_dataset(path=path, folder=tmp_path, levels=4)
    np.savez(path, x_train=np.zeros((9, 4, 4), np.uint8), x_test=np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(UserError, match=r"x_test\] has examples of shape \(1, 4, 5\), but the training part"):
        load_dataset(path=path, folder=tmp_path)


def red(alpha: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4, 4), (220, 30, 30, alpha), np.uint8))


def palette(transparency: int | bytes) -> Image.Image:
    """Return a picture with a palette whose index 0, transparent or half so, is red."""
    picture = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    picture.putpalette([220, 30, 30, 0, 0, 0])
    picture.info["transparency"] = transparency
    return picture


def grey_and_alpha(mode: str) -> Image.Image:
    picture = Image.fromarray(np.full((4, 4, 2), (100, 51), np.uint8))
    return picture if mode == "LA" else picture.convert(mode)


def with_key(mode: str, colour: int | tuple[int, ...]) -> Image.Image:
    """Return a picture of which one colour stands for transparency."""
    picture = Image.new(mode, (4, 4), colour)
    picture.info["transparency"] = colour
    return picture


ON_WHITE = {
    "half red": (lambda: red(64), (246, 199, 199)),
    "hidden red": (lambda: red(0), (255, 255, 255)),
    "plain red": (lambda: red(255), (220, 30, 30)),
    "palette, an index": (lambda: palette(0), (255, 255, 255)),
    "palette, bytes": (lambda: palette(bytes([64])), (246, 199, 199)),
    "grey and alpha": (lambda: grey_and_alpha("LA"), (224, 224, 224)),
    "grey with a key": (lambda: with_key("L", 100), (255, 255, 255)),
    "colour with a key": (lambda: with_key("RGB", (1, 2, 3)), (255, 255, 255)),
}


@pytest.mark.parametrize("kind", ON_WHITE)
def test_transparent_pictures_lie_on_the_background(kind, tmp_path):
    make, on_white = ON_WHITE[kind]
    for number in range(3):
        path = tmp_path / "own" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        make().save(path, transparency=make().info["transparency"]) if "transparency" in make().info else (
            make().save(path)
        )
    options = {"path": tmp_path / "own", "folder": tmp_path / "cache", "image_size": 4, "test_share": 0.0}
    dataset = load_dataset(**options)
    assert dataset.train[0, :, 0, 0].tolist() == list(on_white)
    noted = [
        note for note in dataset.notes if note.startswith("3 pictures are transparent in places, and were laid on")
    ]
    assert len(noted) == (0 if kind == "plain red" else 1)
    if "hidden" in kind:
        assert load_dataset(**options, background="#102030").train[0, :, 0, 0].tolist() == [16, 32, 48]
        with pytest.raises(UserError, match="a background is a colour such as white"):
            load_dataset(**options, background="whit")


BAD_VECTORS = {
    "seconds since 1970": (
        lambda z: (1.7e9 + z).astype(np.float32),
        "columns 0, 1 are each the same .*, or save them in float64, as float32 may not tell such numbers apart",
    ),
    "mean 100 in few bits": (lambda z: (100 + z).astype(np.float16), "which float16 cannot tell apart"),
    "more than squares hold": (lambda z: 1e200 * z, "float64 cannot hold the squares"),
    "a constant column": (lambda z: z * [1, 0] + 5, "column 1 is 5 in every training example"),
    "constant columns": (lambda z: 0 * z + [5, 6], "columns 0, 1 are each the same in every training example"),
    "not a number": (lambda z: np.where(z > 2, np.nan, z), "not finite, first in row"),
}


@pytest.mark.parametrize("kind", BAD_VECTORS)
def test_vectors_that_cannot_be_held_are_refused_by_name(kind, tmp_path):
    change, complaint = BAD_VECTORS[kind]
    vectors = np.random.default_rng(0).normal(size=(200, 2))
    np.save(tmp_path / "vectors.npy", change(vectors))
    with pytest.raises(UserError, match=rf"vectors\.npy.*{complaint}"):
        load_dataset(path=tmp_path / "vectors.npy", folder=tmp_path)
    # Of parts to test on, all numbers must be finite, too.
    if kind == "not a number":
        np.savez(tmp_path / "vectors.npz", x_train=vectors, x_test=change(vectors))
        with pytest.raises(UserError, match=r"vectors\.npz\[x_test\]"):
            load_dataset(path=tmp_path / "vectors.npz", folder=tmp_path)


def save_classes(root: Path, names: Sequence[str], count: int = 2) -> None:
    for place, name in enumerate(names):
        for number in range(count):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(10 * place + number))


def test_links_are_followed_but_not_in_circles(tmp_path):
    save_classes(tmp_path / "own", ["cat", "dog"])
    save_classes(tmp_path / "elsewhere", ["emu"])
    (tmp_path / "own" / "emu").symlink_to(tmp_path / "elsewhere" / "emu")
    (tmp_path / "own" / "cat" / "again").symlink_to(tmp_path / "own")
    dataset = load(tmp_path / "own", tmp_path, test_share=0.0)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert classes(dataset).tolist() == [0, 0, 1, 1, 2, 2]


def test_what_looks_like_a_picture_and_is_not_read_is_counted(tmp_path):
    save_classes(tmp_path / "own", ["train"], 4)
    (tmp_path / "own" / "train" / "photo.HEIC").write_bytes(b"x")
    (tmp_path / "own" / "train" / "no_suffix").write_bytes(png(0))
    (tmp_path / "own" / ".hidden.png").write_bytes(png(0))
    (tmp_path / "own" / "outside.png").write_bytes(png(0))
    (tmp_path / "own" / "._outside.png").write_bytes(b"of another system")
    (tmp_path / "own" / "notes.txt").write_text("no picture")
    [note] = load(tmp_path / "own", tmp_path).notes
    assert note.endswith("not read: .hidden.png, outside.png, train/no_suffix, train/photo.HEIC")
    assert note.startswith("4 files in ")


def test_folders_that_are_no_classes_are_said(tmp_path):
    save_classes(tmp_path / "own", ["cat", "dog"], 4)
    (tmp_path / "own" / "loose.png").write_bytes(png(0))
    dataset = load(tmp_path / "own", tmp_path)
    assert (dataset.num_classes, len(dataset.train) + len(dataset.test)) == (0, 9)
    assert "1 train pictures lie in no folder (loose.png), so folders are not taken for classes" in dataset.notes[0]


def test_archives_of_all_kinds(tmp_path):
    """Names of other systems, members twice, and what unpacks to too much."""
    path = tmp_path / "own.zip"

    def archive(**members: bytes) -> Path:
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(zipfile.ZipInfo(name), content)
        return path

    names = {"./photos/0.png": png(0), "photos\\1.png": png(1), "../photos/2.png": png(2), "/photos/3.png": png(3)}
    dataset = load(archive(**names), tmp_path, test_share=0.0)
    assert {row.numpy().tobytes() for row in dataset.train} == {pixels(seed).tobytes() for seed in range(4)}
    with pytest.raises(UserError, match=r"own\.zip has 0\.png twice"):
        load(archive(**{"0.png": png(0), "./0.png": png(1), "1.png": png(2)}), tmp_path)
    content = bytearray(archive(**{"0.png": png(0), "1.png": png(1)}).read_bytes())
    # The central directory says that the first member unpacks to 2 GiB.
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"0\.png \(it unpacks to 2,147,483,648 bytes\)"):
        load(path, tmp_path)


def test_pictures_of_too_many_pixels_are_refused(tmp_path, recwarn):
    (tmp_path / "own").mkdir()
    head = struct.pack(">II5B", 12_000, 12_000, 8, 0, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", 0)
    (tmp_path / "own" / "huge.png").write_bytes(huge + png(0)[33:])
    (tmp_path / "own" / "0.png").write_bytes(png(0))
    with pytest.raises(UserError, match=r"huge\.png \((it has more than 89,478,485 pixels|not a picture)\)"):
        load(tmp_path / "own", tmp_path)
    assert not recwarn.list


def test_further_frames_are_counted(tmp_path):
    (tmp_path / "own").mkdir()
    first, *others = (Image.fromarray(pixels(seed)) for seed in range(3))
    options: dict[str, Any] = {"save_all": True, "append_images": others, "lossless": True}
    for name in ("0.tiff", "1.gif", "2.png", "3.webp"):
        first.save(tmp_path / "own" / name, **options)
    dataset = load(tmp_path / "own", tmp_path, test_share=0.0)
    assert [row.numpy().tobytes() for row in dataset.train] == [pixels(0).tobytes()] * 4
    assert dataset.notes[0].startswith("4 files have several frames, of which the first was read: ")


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_classes(tmp_path / "photos", ["cat", "dog"])
    assert len(load(Path("~/photos"), tmp_path, test_share=0.0).train) == 4


def test_names_of_files_tell_parts_if_all_do(tmp_path):
    (tmp_path / "own").mkdir()
    for number in range(4):
        (tmp_path / "own" / f"train_{number}.png").write_bytes(png(number))
    (tmp_path / "own" / "test_0.png").write_bytes(png(9))
    dataset = load(tmp_path / "own", tmp_path)
    assert [row.numpy().tobytes() for row in dataset.test] == [pixels(9).tobytes()]
    (tmp_path / "own" / "other.png").write_bytes(png(10))
    with pytest.raises(UserError, match=r"called train or test beside 1 others \(other\.png\): which part"):
        load(tmp_path / "own", tmp_path)
    for number in range(4):
        (tmp_path / "own" / f"train_{number}.png").unlink()
    dataset = load(tmp_path / "own", tmp_path, test_share=0.0)
    assert len(dataset.train) == 2
    assert dataset.notes[0].startswith("1 pictures are called test_0.png, and read like all others")


def test_numbers_for_classes_are_their_names(tmp_path):
    """Of labels 3, 10 and 12, 10 is the second in order, and called 10; those to test on may be hidden as -1."""
    x = np.stack([pixels(seed) for seed in range(6)])
    labels = np.array([[10.0], [3.0], [12.0], [10.0], [3.0], [3.0]])
    np.savez(tmp_path / "own.npz", x=x, y=labels, x_test=x[:2], y_test=np.array([-1, -1]), extra=np.zeros(3))
    dataset = load(tmp_path / "own.npz", tmp_path)
    assert dataset.class_names == ("3", "10", "12")
    assert classes(dataset).tolist() == [1, 0, 2, 1, 0, 0]
    assert dataset.test_classes is None
    assert dataset.notes == (f"{tmp_path / 'own.npz'}: arrays extra are not read",)
