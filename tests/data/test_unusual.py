"""Unusual inputs, found by `python -m benchmarks.inputs`: each is read rightly, or refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data import load_dataset
from errors import UserError


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, seed: int = 0, shape: tuple[int, ...] = (4, 4, 3)) -> np.ndarray:
    """Write a picture; returns it as it should be read."""
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
    with pytest.raises(UserError, match=r"^there is no .*, which data\.path names"):
        load(place, tmp_path)


@pytest.mark.parametrize("validation", [float("nan"), float("inf"), -1.0, 1.5])
def test_validation_parts_of_no_size_are_refused(validation, tmp_path):
    with pytest.raises(UserError, match="is neither a share below 1 nor a number of examples"):
        load_dataset(validation=validation)
