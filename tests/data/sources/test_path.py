"""Users' own data: what is read from each kind of file, number by number, and what is refused."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from score_sde.common.errors import UserError
from score_sde.data import load_dataset
from score_sde.data.sources.picture import PictureFormat, convert
from tests.data.sources.test_cifar10 import FILES, PER_FILE, pictures, python_2_pickle


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def load(path, tmp_path, **options):
    return load_dataset("digits", path=str(path), folder=tmp_path / "cache", **options)


def rows(dataset) -> list[bytes]:
    """Return the training and test examples, sorted by content."""
    both = torch.cat([dataset.train, dataset.test])
    return sorted(bytes(row.numpy().tobytes()) for row in both)


@pytest.fixture
def photos(tmp_path):
    """Twenty pictures 4 x 4 of two classes."""
    for number in range(20):
        path = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number, 4, 4, 3)).save(path)
    return tmp_path / "photos"


def test_a_folder_of_photos(photos, tmp_path):
    dataset = load(photos, tmp_path, image_size=4, test_share=0.2)
    assert dataset.name == "photos"
    assert (len(dataset.train) + len(dataset.test), dataset.levels, dataset.shape) == (20, 256, (3, 4, 4))
    assert rows(dataset) == sorted(pixels(n, 4, 4, 3).transpose(2, 0, 1).tobytes() for n in range(20))
    # Classes go with their pictures.
    assert dataset.class_names == ("cat", "dog")
    odd = {pixels(n, 4, 4, 3).transpose(2, 0, 1).tobytes() for n in range(1, 20, 2)}
    for part, classes in ((dataset.train, dataset.train_classes), (dataset.test, dataset.test_classes)):
        assert [0 if row.numpy().tobytes() in odd else 1 for row in part] == classes.tolist()
    # The seed decides the split.
    again, other = (load(photos, tmp_path, image_size=4, test_share=0.2, split_seed=seed) for seed in (0, 1))
    assert torch.equal(again.test, dataset.test)
    assert not torch.equal(other.test, dataset.test)
    # A validation part takes its classes along.
    dataset = load(photos, tmp_path, image_size=4, validation=4)
    assert [0 if row.numpy().tobytes() in odd else 1 for row in dataset.validation] == (
        dataset.validation_classes.tolist()
    )


def test_a_zip_archive_is_the_folder_in_it(photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.write(path, path.relative_to(photos.parent))
        archive.writestr("__MACOSX/photos/dog/._0.png", b"not a picture")
    dataset = load(tmp_path / "photos.zip", tmp_path, image_size=4)
    assert rows(dataset) == rows(load(photos, tmp_path, image_size=4))
    (tmp_path / "broken.zip").write_bytes((tmp_path / "photos.zip").read_bytes()[:-30])
    with pytest.raises(UserError, match=r"cannot read the archive .*broken.zip"):
        load(tmp_path / "broken.zip", tmp_path, image_size=4)


def test_parts_that_are_apart_stay_apart(photos, tmp_path):
    os.makedirs(tmp_path / "apart" / "test")
    os.rename(photos, tmp_path / "apart" / "train")
    Image.fromarray(pixels(99, 4, 4, 3)).save(tmp_path / "apart" / "test" / "0.png")
    dataset = load(tmp_path / "apart", tmp_path, image_size=4)
    assert len(dataset.train) == 20
    assert torch.equal(dataset.test[0], torch.from_numpy(pixels(99, 4, 4, 3)).permute(2, 0, 1))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.test_classes is None


def test_pictures_are_read_once_unless_they_change(photos, tmp_path, monkeypatch):
    first = rows(load(photos, tmp_path, image_size=4))
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        assert rows(load(photos, tmp_path, image_size=4)) == first
    Image.fromarray(pixels(77, 4, 4, 3)).save(photos / "cat" / "1.png")
    changed = rows(load(photos, tmp_path, image_size=4))
    assert len(set(changed) - set(first)) == 1


def test_damaged_pictures_are_named_and_counted(photos, tmp_path):
    whole = (photos / "dog" / "4.png").read_bytes()
    (photos / "dog" / "4.png").write_bytes(whole[: len(whole) // 2])
    (photos / "cat" / "5.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 20 .*5\.png \(not a picture\), .*4\.png \(.*truncated") as refused:
        load(photos, tmp_path, image_size=4, test_share=0)
    assert "damaged=skip" in str(refused.value)
    for _ in range(2):  # the second time from what was kept
        dataset = load(photos, tmp_path, image_size=4, test_share=0.0, damaged="skip")
        assert rows(dataset) == sorted(
            pixels(n, 4, 4, 3).transpose(2, 0, 1).tobytes() for n in range(20) if n not in (4, 5)
        )
        assert dataset.train_classes.bincount().tolist() == [9, 9]
        assert dataset.notes[0].startswith("skipped 2 pictures")
        assert "5.png" in dataset.notes[0]


def test_a_full_disk_leaves_nothing_half_prepared(photos, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*train\.npy: File too large"):
            load(photos, tmp_path, image_size=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(rows(load(photos, tmp_path, image_size=4))) == 20


def test_what_a_picture_is_made_into():
    """Upright, the middle square, resized, grey, fewer levels."""
    wide = Image.fromarray(np.arange(0, 180, 10, dtype=np.uint8).reshape(3, 6))
    grey = convert(wide, PictureFormat(3, channels=1)).levels
    np.testing.assert_array_equal(grey[0], np.arange(0, 180, 10).reshape(3, 6)[:, 1:4])
    # "Turn by 90 degrees clockwise", says its Exif entry.
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    wide.save(buffer, "png", exif=exif)
    turned = convert(Image.open(buffer), PictureFormat(3, channels=1)).levels
    np.testing.assert_array_equal(turned[0], np.rot90(np.arange(0, 180, 10).reshape(3, 6), -1)[1:4])
    few = convert(wide, PictureFormat(3, channels=3, levels=4)).levels
    np.testing.assert_array_equal(few, np.stack([grey[0] // 64] * 3))
    flat = Image.new("L", (50, 40), 77)
    assert (convert(flat, PictureFormat(8, channels=1)).levels == 77).all()
    with pytest.raises(ValueError, match="8 bits"):
        convert(Image.fromarray(np.zeros((4, 4), np.uint16)), PictureFormat(4))


@pytest.mark.parametrize("shape", [(10, 5, 5), (10, 5, 5, 1), (10, 5, 5, 3), (10, 3, 5, 5)])
def test_numpy_arrays(shape, tmp_path):
    array = pixels(0, *shape)
    np.save(tmp_path / "own.npy", array)
    channels_first = (
        array[:, None] if array.ndim == 3 else array if shape[1] == 3 and shape[3] == 5 else np.moveaxis(array, 3, 1)
    )
    dataset = load(tmp_path / "own.npy", tmp_path, test_share=0.2)
    assert rows(dataset) == sorted(row.tobytes() for row in channels_first)
    assert (dataset.levels, len(dataset.test)) == (256, 2)
    with pytest.raises(UserError, match="levels up to 2"):
        load(tmp_path / "own.npy", tmp_path, levels=20)
    # Levels as they are.
    np.save(tmp_path / "own.npy", array // 16)
    dataset = load(tmp_path / "own.npy", tmp_path, levels=16)
    assert (dataset.levels, int(dataset.train.max())) == (16, 15)
    with pytest.raises(UserError, match="cannot be resized"):
        load(tmp_path / "own.npy", tmp_path, levels=16, image_size=4)


def test_arrays_are_resized_and_made_grey_like_files(tmp_path):
    array = pixels(3, 6, 8, 8, 3)
    np.save(tmp_path / "own.npy", array)
    for number, picture in enumerate(array):
        (tmp_path / "files").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "files" / f"{number}.png")
    options = {"image_size": 4, "num_channels": 1, "test_share": 0.0}
    array_dataset, file_dataset = (load(tmp_path / name, tmp_path, **options) for name in ("own.npy", "files"))
    assert array_dataset.train.shape == (6, 1, 4, 4)
    assert torch.equal(array_dataset.train, file_dataset.train)


def test_arrays_by_name_and_vectors(tmp_path):
    x, y = pixels(0, 6, 4, 4), np.array([[0], [1], [0], [1], [0], [1]])
    np.savez(tmp_path / "named.npz", x_train=x, x_test=x[:2], y_train=y, y_test=y[:2])
    dataset = load(tmp_path / "named.npz", tmp_path)
    np.testing.assert_array_equal(dataset.train[:, 0], x)
    np.testing.assert_array_equal(dataset.test[:, 0], x[:2])
    assert dataset.train_classes.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.test_classes.tolist() == [0, 1]
    vectors = np.random.default_rng(0).normal(size=(10, 3))
    np.save(tmp_path / "vectors.npy", vectors)
    dataset = load(tmp_path / "vectors.npy", tmp_path, test_share=0.3)
    assert (dataset.levels, dataset.shape) == (None, (3,))
    assert rows(dataset) == sorted(row.tobytes() for row in vectors)
    vectors[0, 0] = np.nan
    np.save(tmp_path / "vectors.npy", vectors)
    with pytest.raises(UserError, match="not finite"):
        load(tmp_path / "vectors.npy", tmp_path)
    np.savez(tmp_path / "named.npz", stuff=x)
    with pytest.raises(UserError, match="call that of training examples x_train"):
        load(tmp_path / "named.npz", tmp_path)


class Hostile:
    """Leaves a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_hostile_pickle_does_not_run(tmp_path):
    trap = tmp_path / "sprung"
    np.save(tmp_path / "own.npy", np.array([Hostile(trap)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "own.npz", x_train=np.array([Hostile(trap)], dtype=object))
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Hostile(trap)))
    batches = tmp_path / "batches"
    batches.mkdir()
    (batches / "data_batch_1").write_bytes(pickle.dumps(Hostile(trap), protocol=2))
    for name in ("own.npy", "own.npz", "raw.npy", "batches"):
        with pytest.raises(UserError, match=name):
            load(tmp_path / name, tmp_path)
    assert not trap.exists()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files(compressed, tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    suffix, pack = (".gz", gzip.compress) if compressed else ("", bytes)
    for part, count in (("train", 6), ("t10k", 3)):
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(pixels(count, count, 5, 5))))
        (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.arange(count, dtype=np.uint8))))
    dataset = load(folder, tmp_path)
    assert (dataset.shape, dataset.levels) == ((1, 5, 5), 256)
    np.testing.assert_array_equal(dataset.train[:, 0], pixels(6, 6, 5, 5))
    np.testing.assert_array_equal(dataset.test[:, 0], pixels(3, 3, 5, 5))
    assert dataset.train_classes.tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.test_classes.tolist() == [0, 1, 2]
    # One file by itself; fewer levels, in colour, another size.
    file = folder / f"t10k-images-idx3-ubyte{suffix}"
    dataset = load(file, tmp_path, test_share=0.0, levels=2, num_channels=3, image_size=5)
    np.testing.assert_array_equal(dataset.train, np.stack([pixels(3, 3, 5, 5) // 128] * 3, axis=1))
    assert dataset.train_classes.tolist() == [0, 1, 2]


def test_idx_files_cut_off_anywhere_are_refused(tmp_path):
    whole = idx(pixels(0, 2, 3, 3))
    path = tmp_path / "own-images-idx3-ubyte"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="own-images-idx3-ubyte"):
            load(path, tmp_path)
    packed = gzip.compress(whole)
    path = tmp_path / "own-images-idx3-ubyte.gz"
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with pytest.raises(UserError, match="own-images-idx3-ubyte"):
            load(path, tmp_path)
    path.write_bytes(packed)
    assert len(load(path, tmp_path, test_share=0.0).train) == 2


def test_numpy_files_cut_off_anywhere_are_refused(tmp_path):
    np.save(tmp_path / "whole.npy", pixels(0, 2, 3, 3))
    np.savez(tmp_path / "whole.npz", x_train=pixels(0, 2, 3, 3))
    for suffix in ("npy", "npz"):
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for length in range(0, len(whole), 3):
            (tmp_path / f"cut.{suffix}").write_bytes(whole[:length])
            with pytest.raises(UserError, match="cut"):
                load(tmp_path / f"cut.{suffix}", tmp_path)


def test_cifar_10_by_its_folder(tmp_path):
    for number, name in enumerate(FILES):
        (tmp_path / name).write_bytes(python_2_pickle(pictures(number), [number] * PER_FILE))
    dataset = load(tmp_path, tmp_path)
    assert dataset.train.shape == (15, 3, 32, 32)
    assert np.array_equal(dataset.test.flatten(1).numpy(), pictures(5))
    assert dataset.test_classes.tolist() == [5] * PER_FILE


@pytest.mark.parametrize("described", [True, False])
def test_parquet_files(described, tmp_path):
    """With the library's description of its columns, and without."""
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": png(pixels(number, 4, 4, 3)), "path": None} for number in range(10)]
    table = {"image": images, "label": [number % 2 for number in range(10)]}
    features = None
    if described:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    folder = tmp_path / "parquet"
    folder.mkdir()
    whole = datasets.Dataset.from_dict(table, features=features)
    for part, chosen in (("train", range(8)), ("test", range(8, 10))):
        path = folder / f"{part}-00000-of-00001.parquet"
        whole.select(chosen).to_parquet(path)
        if not described:
            strip(path)
    dataset = load(folder, tmp_path, image_size=4)
    np.testing.assert_array_equal(dataset.train, [pixels(n, 4, 4, 3).transpose(2, 0, 1) for n in range(8)])
    np.testing.assert_array_equal(dataset.test, [pixels(n, 4, 4, 3).transpose(2, 0, 1) for n in range(8, 10)])
    assert dataset.train_classes.tolist() == [0, 1] * 4
    assert dataset.class_names == (("cat", "dog") if described else ("0", "1"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot read the dataset"):
        load(folder, tmp_path, image_size=4)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def strip(path) -> None:
    """Take away what the library wrote about the columns."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).replace_schema_metadata(None), path)


def test_what_is_nothing_we_read(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nowhere"):
        load(tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no images in"):
        load(tmp_path / "empty", tmp_path, image_size=4)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="is none of a folder or zip of images"):
        load(tmp_path / "notes.txt", tmp_path)
    np.save(tmp_path / "odd.npy", np.zeros((3, 4, 5, 6), np.int64))
    with pytest.raises(UserError, match=r"int64 numbers of shape \(3, 4, 5, 6\)"):
        load(tmp_path / "odd.npy", tmp_path)
    with pytest.raises(UserError, match="did you mean 'skip'"):
        load(tmp_path / "odd.npy", tmp_path, damaged="skipp")
