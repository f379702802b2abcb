"""Pictures of any height and width, brought to a size in each way, or left as they are; and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score_sde.common.errors import UserError
from score_sde.data import Dataset, load_dataset
from score_sde.experiment import configuration
from score_sde.experiment.build import make_dataset
from score_sde.experiment.configuration import load_file
from tests.reading import ROOT

LANCZOS = Image.Resampling.LANCZOS


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder: Path, arrays: list[np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{number}.png")
    return folder


def read(path: Path, **options: Any) -> Dataset:
    return load_dataset(path=path, folder=path.parent / "cache", **{"test_share": 0.0, **options})


def scaled(array: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((width, height), LANCZOS))


def padded(array: np.ndarray, height: int, width: int, colour: tuple[int, ...]) -> np.ndarray:
    whole = np.empty((height, width, 3), np.uint8)
    whole[:] = colour
    top, left = (height - array.shape[0]) // 2, (width - array.shape[1]) // 2
    whole[top : top + array.shape[0], left : left + array.shape[1]] = array
    return whole


def truth(array: np.ndarray, resize: str) -> np.ndarray:
    """Bring a picture of 24 x 24, 12 x 12, 10 x 40 or 8 x 16 to 8 x 16."""
    height, width = array.shape[:2]
    if (height, width) == (8, 16):
        return array
    if resize == "fit":
        return scaled(array, 8, 16)
    if resize == "pad":
        within = {(24, 24): (8, 8), (12, 12): (8, 8), (10, 40): (4, 16), (2, 2): (8, 8)}[height, width]
        return padded(scaled(array, *within), 8, 16, (1, 2, 3))
    cuts: dict[tuple[int, ...], Any] = {
        (24, 24): np.s_[6:18],
        (12, 12): np.s_[3:9],
        (10, 40): np.s_[:, 10:30],
        (2, 2): np.s_[0:1],
    }
    return scaled(array[cuts[height, width]], 8, 16)


SIZES = [(8, 16), (24, 24), (12, 12), (10, 40), (2, 2), (2, 2)]
NOTES = {
    "crop": "5 cropped, 3 enlarged; these were 2 x 2, 24 x 24, 12 x 12, 10 x 40",
    "pad": "5 padded, 2 enlarged; these were 2 x 2, 24 x 24, 12 x 12, 10 x 40",
    "fit": "5 stretched, 3 enlarged; these were 2 x 2, 24 x 24, 12 x 12, 10 x 40",
}


@pytest.mark.parametrize("resize", NOTES)
def test_pictures_of_all_sizes_are_brought_to_one(resize, tmp_path):
    pictures = [pixels(seed, *size, 3) for seed, size in enumerate(SIZES)]
    options = {"image_size": 8, "image_width": 16, "resize": resize, "background": "#010203"}
    dataset = read(save(tmp_path / "own", pictures), **options)
    assert dataset.shape == (3, 8, 16)
    for found, picture in zip(dataset.train.numpy(), pictures, strict=True):
        np.testing.assert_array_equal(found, truth(picture, resize).transpose(2, 0, 1))
    (note,) = dataset.notes
    assert note == f"of 6 pictures, brought to 8 x 16 (height x width), {NOTES[resize]}"
    # From what was kept, too; and as the array of such pictures.
    assert read(tmp_path / "own", **options).notes == dataset.notes
    np.save(tmp_path / "own.npy", np.stack(pictures[4:]))
    np.testing.assert_array_equal(read(tmp_path / "own.npy", **options).train, dataset.train[4:])


def test_grey_pictures_lie_on_the_grey_of_the_background(tmp_path):
    save(tmp_path / "own", [pixels(0, 4, 8)])
    dataset = read(tmp_path / "own", image_size=8, num_channels=1, resize="pad", background="#ff0000")
    np.testing.assert_array_equal(dataset.train[0, 0, 2:6], pixels(0, 4, 8))
    grey = np.asarray(Image.new("RGB", (1, 1), "#ff0000").convert("L")).item()
    assert dataset.train[0, 0, [0, 1, 6, 7]].unique().tolist() == [grey]


def test_pictures_of_one_size_keep_it(tmp_path):
    """Whatever way of resizing is the default; levels are reduced all the same."""
    arrays = [pixels(seed, 5, 9, 3) for seed in range(4)]
    folder = save(tmp_path / "own", arrays)
    for options in ({}, {"resize": "none"}, {"resize": "none", "image_size": 5, "image_width": 9}):
        dataset = read(folder, **options)
        np.testing.assert_array_equal(dataset.train, np.stack(arrays).transpose(0, 3, 1, 2))
        assert dataset.notes == ()
    np.testing.assert_array_equal(read(folder, levels=2).train, np.stack(arrays).transpose(0, 3, 1, 2) // 128)
    # Arrays, of any aspect.
    np.save(tmp_path / "own.npy", pixels(0, 6, 16, 32))
    np.testing.assert_array_equal(read(tmp_path / "own.npy").train[:, 0], pixels(0, 6, 16, 32))


def test_pictures_of_several_sizes_are_refused_by_two_of_them(tmp_path):
    folder = save(tmp_path / "own", [pixels(0, 5, 9, 3), pixels(1, 5, 9, 3), pixels(2, 6, 9, 3)])
    for damaged in ("refuse", "skip"):
        with pytest.raises(UserError, match=r"2\.png is 6 x 9 \(height x width\), but \S+/0\.png is 5 x 9: bring pict"):
            read(folder, damaged=damaged)
        with pytest.raises(UserError, match=r"0\.png is 5 x 9 .*, but image_size asks for 6 x 6: bring pictures to"):
            read(folder, image_size=6, resize="none", damaged=damaged)
    # The first of those that can be read decides.
    (folder / "0.png").write_bytes(b"")
    (folder / "2.png").unlink()
    assert read(folder, damaged="skip").shape == (3, 5, 9)
    with pytest.raises(UserError, match=r"1 of 2 train pictures cannot be read: .*0\.png"):
        read(folder)
    (folder / "1.png").unlink()
    with pytest.raises(UserError, match="none of the 1 training pictures can be read"):
        read(folder, damaged="skip")


def test_a_width_alone_is_refused(tmp_path):
    folder = save(tmp_path / "own", [pixels(0, 5, 9, 3)])
    with pytest.raises(UserError, match="image_width=4 is at least 1, and goes with image_size"):
        read(folder, image_width=4)
    with pytest.raises(UserError, match="no way of resizing is called 'padd'"):
        read(folder, resize="padd")


def test_a_configuration_may_ask_for_a_width(tmp_path):
    folder = save(tmp_path / "own", [pixels(seed, 5, 9, 3) for seed in range(4)])
    config = load_file(ROOT / "configs" / "vp" / "digits.py")
    changes = {"data.path": str(folder), "data.folder": str(tmp_path / "cache"), "data.image_size": "4"}
    changes |= {"data.image_width": "8", "data.num_channels": "3", "data.resize": "fit", "data.levels": "256"}
    configuration.override(config, changes.items())
    assert make_dataset(config).shape == make_dataset(config, files_needed=False).shape == (3, 4, 8)
