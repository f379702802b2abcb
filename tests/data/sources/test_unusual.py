"""Unusual inputs, found by `python -m benchmarks.inputs`: each is read rightly, or refused in one line."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from benchmarks.input_pictures import BROKEN, UNUSUAL, Form, truth
from score_sde.common.errors import UserError
from score_sde.data import load_dataset
from score_sde.data.sources.picture import Converted, PictureFormat, library_silenced, read
from tests.data.sources.test_cifar10 import FILES
from tests.data.sources.test_path import idx


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, seed: int = 0, shape: tuple[int, ...] = (4, 4, 3)) -> np.ndarray:
    """Write a picture; return it as it should be read."""
    array = pixels(seed, *shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array.transpose(2, 0, 1)


def load(path, tmp_path, **options):
    return load_dataset(path=str(path), folder=tmp_path / "cache", **{"image_size": 4, "test_share": 0.0, **options})


def test_names_with_line_breaks_are_told_in_one_line(tmp_path):
    save(tmp_path / "two\nlines" / "a\udce9.png")
    (tmp_path / "two\nlines" / "b\n.heic").write_bytes(b"")
    (note,) = load(tmp_path / "two\nlines", tmp_path).notes
    assert note == rf"1 files in {tmp_path}/two\nlines look like pictures and are not read: b\n.heic"
    (tmp_path / "two\nlines" / "a\udce9.png").write_bytes(b"")
    with pytest.raises(UserError) as refused:
        load(tmp_path / "two\nlines", tmp_path)
    assert rf"{tmp_path}/two\nlines/a\udce9.png (not a picture)" in str(refused.value)


@pytest.mark.parametrize("place", ["~nobody-of-this-name/x", "x" * 5000, "a\0b"])
def test_places_that_no_file_can_have_are_refused(place, tmp_path):
    with pytest.raises(UserError, match=r"^there is no .*, which path names"):
        load(place, tmp_path)


@pytest.mark.parametrize("validation", [float("nan"), float("inf"), -1.0, 1.5])
def test_validation_parts_of_no_size_are_refused(validation, tmp_path):
    with pytest.raises(UserError, match="is neither a share below 1 nor a number of examples"):
        load_dataset(validation=validation)


def test_pictures_by_another_name_and_pipes_are_counted(tmp_path):
    photos = tmp_path / "photos"
    for number in range(3):
        save(photos / f"{number}.png", number)
    for name, kind in (("a", "webp"), ("b.png.bak", "png"), ("c.jpg_large", "jpeg")):
        Image.fromarray(pixels(0, 4, 4, 3)).save(photos / name, kind)
    (photos / "notes.txt").write_text("RIFF, but no picture")
    note = "3 files in {} look like pictures and are not read: a, b.png.bak, c.jpg_large"
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in photos.iterdir():
            archive.write(path, path.name)
    assert load(tmp_path / "photos.zip", tmp_path).notes == (note.format(tmp_path / "photos.zip"),)
    assert load(photos, tmp_path).notes == (note.format(photos),)
    os.mkfifo(photos / "pipe.png")
    dataset = load(photos, tmp_path)
    assert len(dataset.train) == 3
    assert dataset.notes == (note.format(photos).replace("3 files", "4 files") + ", pipe.png",)


def test_names_from_the_root_are_below_that_of_the_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("/cat/0.png", "/cat/1.png", "dog/0.png"):
            archive.writestr(name, png(pixels(0, 4, 4, 3)))
    dataset = load(tmp_path / "photos.zip", tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train_classes.tolist() == [0, 0, 1]


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def test_archives_whose_directory_tells_untruths_are_refused(tmp_path):
    """Of the record of a member: the version that it needs; what it unpacks to; how; its checksum."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", png(pixels(0, 4, 4, 3)))
    whole = path.read_bytes()
    directory = struct.unpack("<I", whole[-6:-2])[0]
    for offset, value in ((6, b"\xff"), (24, b"\5"), (10, b"\x63"), (16, b"abcd"), (24, b"\0\0\0\xff")):
        at = directory + offset
        path.write_bytes(whole[:at] + value + whole[at + len(value) :])
        with pytest.raises(UserError, match=r"photos\.zip") as refused:
            load(path, tmp_path)
        assert "Error" not in str(refused.value)


@pytest.mark.parametrize("number", range(len(UNUSUAL)))
def test_pictures_of_every_mode_agree_with_an_independent_reading(number):
    made = UNUSUAL[number](np.random.default_rng(number))
    for size, channels in ((5, 3), (3, 1)):
        with library_silenced():
            found = read(lambda: Image.open(io.BytesIO(made.content)), PictureFormat(size, channels))
        true = truth(made.content, Form(size, channels))
        assert isinstance(found, Converted)
        np.testing.assert_array_equal(found.levels, true.levels)
        assert (found.transparent, found.more_frames) == (true.transparent, true.frames)


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_pictures_of_too_many_bits_or_pixels_or_too_few_bytes_are_not_read(number):
    made = BROKEN[number](np.random.default_rng(number))
    with library_silenced():
        found = read(lambda: Image.open(io.BytesIO(made.content)), PictureFormat(4))
    assert isinstance(found, str)
    assert (found == "it has more than 8 bits a channel") == ("bit " in made.what or " in TIFF" in made.what)


@pytest.mark.parametrize("target", ["gone.png", "nowhere"])
def test_links_to_nothing_are_told_in_our_words(target, tmp_path):
    save(tmp_path / "photos" / "0.png")
    (tmp_path / "photos" / "gone.png").symlink_to(target)
    with pytest.raises(UserError, match=r"gone\.png \((No such file|Too many levels)[a-z -]*\); remove"):
        load(tmp_path / "photos", tmp_path)


def test_a_part_of_one_example_has_the_shape_of_others(tmp_path):
    np.save(tmp_path / "own.npy", pixels(0, 5, 6, 6))
    dataset = load_dataset(path=tmp_path / "own.npy", test_share=0.01, validation=1)
    assert dataset.train.shape == (3, 1, 6, 6)
    assert dataset.test.shape == dataset.validation.shape == (1, 1, 6, 6)


def test_too_few_examples_are_told_with_their_place(tmp_path):
    np.save(tmp_path / "own.npy", pixels(0, 1, 6, 6))
    with pytest.raises(UserError, match=rf"of 1 examples of {tmp_path}/own\.npy: something must be left"):
        load_dataset(path=tmp_path / "own.npy")


def test_one_picture_is_not_taken_for_many(tmp_path):
    for shape in ((32, 32, 3), (32, 32, 1)):
        np.save(tmp_path / "own.npy", pixels(0, *shape))
        with pytest.raises(UserError, match="the last number could be the channels of one picture"):
            load_dataset(path=tmp_path / "own.npy")


@pytest.mark.parametrize(
    "classes", [np.full(8, np.inf), np.full(8, 1e30), np.full(8, np.nan), np.zeros((2, 4), int), np.zeros((8, 2), int)]
)
def test_what_is_no_class_an_example_is_refused(classes, tmp_path):
    np.savez(tmp_path / "own.npz", x=pixels(0, 8, 6, 6), y=classes)
    with pytest.raises(UserError, match=r"own\.npz\[y\] has (classes of shape|float64 classes)"):
        load_dataset(path=tmp_path / "own.npz")


def test_classes_that_only_the_test_part_has_are_not_dropped_in_silence(tmp_path):
    np.savez(tmp_path / "own.npz", x=pixels(0, 8, 6, 6), x_test=pixels(1, 2, 6, 6), y_test=np.arange(2))
    dataset = load_dataset(path=tmp_path / "own.npz")
    assert dataset.test_classes is None
    assert dataset.notes == (
        f"{tmp_path}/own.npz: the training part has no classes, so those of the test part are not used",
    )


def test_names_of_the_same_number_have_one_order(tmp_path):
    for name in ("1", "01", "001", "10", "2"):
        save(tmp_path / "photos" / name / "0.png")
    assert load(tmp_path / "photos", tmp_path).class_names == ("001", "01", "1", "2", "10")


def test_idx_files_of_other_numbers_are_counted(tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "qmnist-train-images-idx3-ubyte").write_bytes(idx(pixels(0, 4, 3, 3)))
    (tmp_path / "mnist" / "qmnist-train-labels-idx2-int").write_bytes(b"")
    dataset = load_dataset(path=tmp_path / "mnist", test_share=0.0)
    np.testing.assert_array_equal(dataset.train[:, 0], pixels(0, 4, 3, 3))
    assert dataset.notes == (
        f"{tmp_path}/mnist: qmnist-train-labels-idx2-int are not read; classes are called …-labels-idx1-ubyte",
    )


@pytest.mark.parametrize("labels", [[0, -1], [0, 10], [0.5, 1], ["cat", "dog"], [[0], [1]], None])
def test_batches_of_cifar_10_with_other_labels_are_refused(labels, tmp_path):
    for name in FILES:
        batch = {b"data": pixels(0, 2, 3072), b"labels": labels if name == "data_batch_4" else [0, 1]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(UserError, match=r"data_batch_4 is not .* \(its labels are not whole numbers from 0 to 9\)"):
        load_dataset(path=tmp_path)


def write_parquet(path, names: list[str], images: Sequence[bytes | None]) -> None:
    """Write a file of pictures, whose classes are `names` in turn."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    table = {
        "image": [None if image is None else {"bytes": image, "path": None} for image in images],
        "label": [number % len(names) for number in range(len(images))],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(table, features=features).to_parquet(path)


def test_parquet_files_that_number_classes_differently_keep_their_names(tmp_path):
    folder = tmp_path / "my [data]*"
    images = [png(pixels(number, 4, 4, 3)) for number in range(4)]
    write_parquet(folder / "train.parquet", ["cat", "dog"], images)
    write_parquet(folder / "test.parquet", ["dog", "cat"], images[:3])
    dataset = load(folder, tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert (dataset.train_classes.tolist(), dataset.test_classes.tolist()) == ([0, 1, 0, 1], [1, 0, 1])
    # Within one part they have to agree.
    write_parquet(folder / "train-2.parquet", ["dog", "cat"], images)
    with pytest.raises(UserError, match=r"train-2\.parquet and .*train\.parquet, both of the train part, number their"):
        load(folder, tmp_path)


def test_pictures_of_parquet_files_are_read_like_files(tmp_path):
    """With all of their bits, frames, or nothing at all."""
    rng = np.random.default_rng(0)
    deep = BROKEN[0](rng).content
    whole = png(pixels(0, 4, 4, 3))
    for image, reason in ((deep, "it has more than 8 bits a channel"), (None, "there is no picture")):
        write_parquet(tmp_path / "own.parquet", ["cat"], [whole, image])
        with pytest.raises(UserError, match=rf"own\.parquet\[1\] \({reason}\)"):
            load(tmp_path / "own.parquet", tmp_path)
    frames = io.BytesIO()
    Image.new("L", (4, 4)).save(frames, "gif", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    write_parquet(tmp_path / "own.parquet", ["cat"], [whole, frames.getvalue()])
    (note,) = load(tmp_path / "own.parquet", tmp_path).notes
    assert note == f"1 files have several frames, of which the first was read: {tmp_path}/own.parquet[1]"


def test_a_damaged_part_of_parquet_files_is_named_alone(tmp_path, capsys):
    write_parquet(tmp_path / "own" / "train.parquet", ["cat"], [png(pixels(0, 4, 4, 3))])
    (tmp_path / "own" / "test.parquet").write_bytes(b"")
    capsys.readouterr()
    with pytest.raises(UserError, match=rf"^cannot read the dataset {tmp_path}/own: its test part is damaged$"):
        load(tmp_path / "own", tmp_path)
    assert capsys.readouterr() == ("", "")
    (tmp_path / "empty.parquet").mkdir()
    with pytest.raises(UserError, match="there are no images in"):
        load(tmp_path / "empty.parquet", tmp_path)


def test_damage_is_told_without_the_inside_of_libraries(tmp_path):
    """Of the head of an array, of a packed array, of a pickle, of a picture."""
    array = pixels(0, 6, 6, 6)
    np.save(tmp_path / "own.npy", array)
    whole = (tmp_path / "own.npy").read_bytes()
    (tmp_path / "own.npy").write_bytes(whole.replace(b"False", b"Wrong"))
    np.savez_compressed(tmp_path / "own.npz", x=array)
    whole = (tmp_path / "own.npz").read_bytes()
    (tmp_path / "own.npz").write_bytes(whole[:60] + b"\xff" * 20 + whole[80:])
    for name in ("own.npy", "own.npz"):
        with pytest.raises(UserError, match=rf"^cannot read {tmp_path}/{name}: it is damaged$"):
            load(tmp_path / name, tmp_path)
    for name in FILES:
        (tmp_path / name).write_bytes(b"\xfb")
    with pytest.raises(UserError, match=r"data_batch_1 is not a batch of CIFAR-10; download"):
        load(tmp_path, tmp_path)
    save(tmp_path / "photos" / "0.png")
    (tmp_path / "photos" / "1.ppm").write_bytes(b"P6 \xf7 3 255\n")
    with pytest.raises(UserError, match=r"1\.ppm \(it is damaged\)"):
        load(tmp_path / "photos", tmp_path)


@pytest.mark.parametrize("train", ["train/0.png", "train/emu/0.png"])
def test_folders_of_the_test_part_alone_are_no_classes(train, tmp_path):
    for name in (train, "test/cat/0.png", "test/dog/0.png"):
        save(tmp_path / "photos" / name)
    dataset = load(tmp_path / "photos", tmp_path)
    assert dataset.test_classes is None
    assert dataset.notes == (
        f"{tmp_path}/photos: folders of the test part (cat, dog) are not taken for classes, as those of training "
        "pictures are none",
    )


def test_pictures_beside_a_common_folder_move_none_to_another_part(tmp_path):
    photos = tmp_path / "photos"
    for number in range(40):
        save(photos / "2024" / f"{number}.png", number)
    before = load(photos, tmp_path, test_share=0.3, validation=0.2)
    for number in range(40, 60):
        save(photos / "2025" / f"{number}.png", number)
    after = load(photos, tmp_path, test_share=0.3, validation=0.2)
    assert min(map(len, (before.train, before.validation, before.test))) > 2
    for part in ("train", "validation", "test"):
        then, now = ({row.tobytes() for row in getattr(each, part).numpy()} for each in (before, after))
        assert then < now


def test_columns_of_classes_that_are_not_read_are_told(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": png(pixels(number, 4, 4, 3)), "path": None} for number in range(2)]
    breeds = datasets.ClassLabel(names=["a", "b"])
    features = {"image": datasets.Image(), "target": datasets.Value("int64"), "breed": breeds}
    table = {"image": images, "target": [3, 7], "breed": [0, 1]}
    datasets.Dataset.from_dict(table, features=datasets.Features(features)).to_parquet(tmp_path / "own.parquet")
    dataset = load(tmp_path / "own.parquet", tmp_path)
    assert (dataset.class_names, dataset.train_classes.tolist()) == (("3", "7"), [0, 1])
    assert dataset.notes == (f"{tmp_path}/own.parquet: classes of the column breed are not read, but those of target",)
