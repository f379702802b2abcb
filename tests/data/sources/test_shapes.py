"""Arrays of every shape, dtype and scale: read to the last bit, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Dataset, load_dataset
from score_sde.data.sources import copies
from score_sde.data.sources.floats import Spread, held


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def read(tmp_path: Path, array: np.ndarray, **options: Any) -> Dataset:
    np.save(tmp_path / "own.npy", array)
    return load_dataset(path=tmp_path / "own.npy", folder=tmp_path / "cache", **{"test_share": 0.0, **options})


SHAPES = {"vectors": (40, 3), "series": (40, 2, 10), "fields": (40, 2, 4, 6), "volumes": (20, 1, 3, 4, 5)}


@pytest.mark.parametrize("kind", SHAPES)
def test_numbers_of_every_shape_are_read_as_they_are(kind, tmp_path):
    z = normal(*SHAPES[kind])
    for dtype in (np.float64, np.float32, np.float16, ">f8"):
        dataset = read(tmp_path, z.astype(dtype))
        assert dataset.levels is None
        kept = z.astype(dtype).astype(np.float64 if np.dtype(dtype).itemsize == 8 else np.float32)
        assert dataset.train.numpy().dtype == kept.dtype
        np.testing.assert_array_equal(dataset.train, kept)
    np.testing.assert_array_equal(read(tmp_path, np.asfortranarray(z)).train, z)
    series = f"{tmp_path}/own.npy has series, of 2 channels and 10 steps each; fields of one channel are saved as"
    assert dataset.notes == ((f"{series} (N, 1, H, W)",) if kind == "series" else ())


def test_volumes_of_levels(tmp_path):
    levels = np.random.default_rng(0).integers(0, 9, (12, 1, 3, 4, 5), dtype=np.uint8)
    dataset = read(tmp_path, levels, levels=9)
    np.testing.assert_array_equal(dataset.train, levels)
    assert (dataset.levels, dataset.train.dtype) == (9, torch.uint8)
    with pytest.raises(UserError, match="levels up to 8"):
        read(tmp_path, levels, levels=8)
    with pytest.raises(UserError, match=r"volumes of shape .* which are not resized"):
        read(tmp_path, levels, image_size=4)


@pytest.mark.parametrize(
    "change",
    [
        lambda z: 5000 + 700 * z,
        lambda z: z * [1, 1000, 1e-6],
        lambda z: 7 + 0.001 * z,
        lambda z: (7 + 0.001 * z).astype(np.float32),
        lambda z: 1.7e9 + z,
        lambda z: 1e100 * z,
        lambda z: np.where(np.arange(len(z))[:, None] == 3, 1e4, z).astype(np.float16),
    ],
)
def test_any_scale_is_read(change, tmp_path):
    array = change(normal(400, 3))
    np.testing.assert_array_equal(read(tmp_path, array).train, array)


def test_whole_numbers_become_floats_that_hold_them_and_are_told(tmp_path):
    rng = np.random.default_rng(0)
    for dtype, kept in (("int8", "f4"), ("uint16", "f4"), ("int32", "f8"), ("int64", "f8")):
        array = rng.integers(0, 100, (30, 3)).astype(dtype)
        dataset = read(tmp_path, array)
        assert dataset.train.numpy().dtype == kept
        np.testing.assert_array_equal(dataset.train, array)
        assert dataset.notes[0].startswith(f"{tmp_path}/own.npy has whole numbers only in column 0, 1, 2: discrete")
    mixed = np.stack([rng.normal(size=30), rng.integers(0, 9, 30)], 1)
    assert "only in column 1: discrete numbers have no density" in read(tmp_path, mixed).notes[0]
    pictures = rng.integers(0, 256, (10, 1, 6, 6))
    for scaled, step in (((pictures / 255).astype(np.float32), "1/255"), (pictures / 127.5 - 1, "2/255")):
        (note,) = read(tmp_path, scaled).notes
        assert f"has multiples of {step} only" in note


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.where(normal(40, 2, 5) > 2.5, np.inf, normal(40, 2, 5)), r"not finite, first in row \d+, channel [01]:"),
        (normal(40, 2, 5) * [[0], [1]] + 3, "channel 0 is 3 in every training example"),
        ((1e6 + normal(9, 2, 4, 8)).astype(np.float32), "channel 0 has mean 1e\\+06 .* float32 cannot tell apart"),
        (np.where(np.arange(40)[:, None] == 7, 1e39, normal(40, 2)), "half of its numbers lie within 1.* leave these"),
        (normal(9, 8, 8, 3), "where the last number could be the channels: they come second"),
        (normal(9, 8, 8, 8, 1), "where the last number could be the channels"),
        (normal(9, 8, 8, 2) > 0, "bool numbers of shape"),
        ((normal(9, 8, 8) * 100).astype(np.int64), "int64 numbers of shape"),
        (normal(9, 8) + 1j, "complex128 numbers of shape"),
        (normal(2, 3, 4, 5, 6, 7), "float64 numbers of shape"),
        (2.0**62 + normal(40, 2) * 0 + np.arange(40)[:, None] * 1024, "float64 cannot tell apart"),
        (normal(1, 3), "0, 1, 2 are each the same in every training example"),
    ],
)
def test_what_has_no_density_or_no_meaning_is_refused(array, complaint, tmp_path):
    with pytest.raises(UserError, match=rf"own\.npy.*{complaint}"):
        read(tmp_path, array)


def test_a_column_that_is_constant_in_the_training_part_alone_is_refused(tmp_path):
    array = np.concatenate([normal(20, 2), np.arange(20)[:, None] == 7], axis=1)
    whole = read(tmp_path, normal(20, 2), test_share=0.3)
    tested = [row for row, example in enumerate(normal(20, 2)) if example.tolist() in whole.test.tolist()]
    assert 1 < len(tested) < 12
    for row in range(20):
        array[:, 2] = np.arange(20) == row
        if row in tested:
            with pytest.raises(UserError, match="column 2 is 0 in every training example"):
                read(tmp_path, array, test_share=0.3)
        else:
            assert read(tmp_path, array, test_share=0.3).train[:, 2].sum() == 1


def test_parts_must_be_alike(tmp_path):
    z = normal(9, 1, 4, 4)
    for other, complaint in (
        (np.zeros((3, 1, 4, 4), np.uint8), "has levels, uint8, unlike the training part"),
        (normal(3, 1, 4, 5), "of shape \\(1, 4, 5\\), but the training part"),
    ):
        np.savez(tmp_path / "own.npz", x_train=z, x_test=other)
        with pytest.raises(UserError, match=complaint):
            load_dataset(path=tmp_path / "own.npz")
    np.savez(tmp_path / "own.npz", x_train=z.astype(np.float32), x_test=z)
    dataset = load_dataset(path=tmp_path / "own.npz")
    assert dataset.train.dtype == dataset.test.dtype == torch.float64
    np.testing.assert_array_equal(dataset.test, z)


def test_test_examples_that_no_unit_can_hold_are_refused(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=normal(30, 2), x_test=normal(4, 2) * [1, 1e17])
    with pytest.raises(UserError, match=r"own\.npz\[x_test\]: column 1 has numbers from .* too far from the mean"):
        load_dataset(path=tmp_path / "own.npz")
    np.savez(tmp_path / "own.npz", x_train=normal(30, 2), x_test=normal(4, 2) * [1, 1e9])
    np.testing.assert_array_equal(load_dataset(path=tmp_path / "own.npz").test, normal(4, 2) * [1, 1e9])


def test_chunks_give_the_moments_of_the_whole():
    """In float64, of numbers far from 0."""
    for dtype in (np.float64, np.float32):
        x = (1e6 + normal(100, 3, 7) * [[1], [100], [3]]).astype(dtype)
        spread = Spread("x", x.dtype, (3, 7))
        for start, end in ((0, 1), (1, 50), (50, 51), (51, 100)):
            spread.add(x[start:end], range(start, end))
        exact = x.astype(np.float64)
        np.testing.assert_allclose(spread.mean, exact.mean((0, 2)), rtol=1e-14)
        np.testing.assert_allclose(spread.deviations / spread.count, exact.var((0, 2)), rtol=1e-10)
        np.testing.assert_array_equal(spread.low, exact.min((0, 2)))
        np.testing.assert_array_equal(spread.high, exact.max((0, 2)))
    assert held(np.dtype(np.longdouble)) == np.float64


def test_complaints_name_the_row_in_the_file(tmp_path, monkeypatch):
    """Whatever part it belongs to, and in whichever chunk it is."""
    monkeypatch.setattr(copies, "_CHUNK", 200)
    for row in (0, 17, 39):
        array = normal(40, 3)
        array[row, 1] = np.nan
        with pytest.raises(UserError, match=f"first in row {row}, column 1:"):
            read(tmp_path, array, test_share=0.4, validation=0.3)
