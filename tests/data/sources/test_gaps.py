"""Numbers that are missing: read from every door, where they may be, and standardised by what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Dataset, arrays_dataset, load_dataset
from score_sde.data.units import standardised

COLUMNS = ["a", "b", "c"]


def table(share: float = 0.3) -> np.ndarray:
    generator = np.random.default_rng(0)
    x = generator.normal([1.0, -5.0, 100.0], [1.0, 2.0, 30.0], (200, 3))
    x[generator.random(x.shape) < share] = np.nan
    return x[~np.isnan(x).all(1)]


DOORS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "own.csv": lambda path, x: pd.DataFrame(x, columns=COLUMNS).to_csv(path, index=False),
    "own.parquet": lambda path, x: pd.DataFrame(x, columns=COLUMNS).to_parquet(path),
    "own.npy": np.save,
    "own.npz": lambda path, x: np.savez(path, x=x),
}


@pytest.mark.parametrize("name", DOORS)
def test_files_with_gaps(name: str, tmp_path: Path) -> None:
    x = table()
    DOORS[name](tmp_path / name, x)
    dataset = load_dataset(path=tmp_path / name, test_share=0.0, missing=True)
    np.testing.assert_array_equal(dataset.train, x)
    assert any(f"{np.isnan(x).mean():.1%} of the numbers of training examples are missing" in n for n in dataset.notes)
    encoded = dataset.encode(dataset.train, 0).double().numpy()
    np.testing.assert_allclose(np.nanmean(encoded, 0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(encoded, 0), 1, atol=1e-6)
    with pytest.raises(UserError, match=r"no value in row|not finite.*missing=True"):
        load_dataset(path=tmp_path / name, test_share=0.0)


def test_whole_numbers_with_empty_cells(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": pd.array([30, None, 40] * 10, dtype="Int64"), "b": np.arange(30) / 7})
    dataset = arrays_dataset(frame, missing=True, test_share=0.0)
    np.testing.assert_array_equal(dataset.train[:3, 0], [30, np.nan, 40])
    assert any("whole numbers only in column age" in note for note in dataset.notes)


def test_channels_are_standardised_by_what_was_observed() -> None:
    """A place that was never observed decides nothing."""
    generator = np.random.default_rng(0)
    x = generator.normal(3.0, 2.0, (200, 2, 5))
    x[generator.random(x.shape) < 0.5] = np.nan
    x[:, 1, 4] = np.nan
    units = standardised(torch.from_numpy(x))
    for channel, places in ((0, slice(5)), (1, slice(4))):
        seen = x[:, channel, places]
        means, variances = np.nanmean(seen, 0), np.nanvar(seen, 0)
        np.testing.assert_allclose(units.mean[channel], means.mean(), rtol=1e-12)
        np.testing.assert_allclose(units.std[channel] ** 2, variances.mean() + means.var(), rtol=1e-12)


def test_data_with_gaps_have_no_gaussian() -> None:
    """Nor has a share of them that happens to be whole."""
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    assert Dataset("whole", x, x[:0]).gaussian is not None
    x[1, 0] = torch.nan
    dataset = Dataset("gaps", x, x[:0])
    assert dataset.has_gaps
    assert dataset.gaussian is None


BAD = {
    "infinite": (np.where(table(0.0) > 150, np.inf, table(0.0)), "not finite, first in row"),
    "an empty example": (np.vstack([table(), [[np.nan] * 3]]), "has no value at all in row"),
    "an empty column": (np.column_stack([table(0.0), np.full(200, np.nan)]), "column 3 has no value in any training"),
    "constant": (np.column_stack([table(0.0), [1.5, np.nan] * 100]), "column 3 is 1.5 in every training example"),
}


@pytest.mark.parametrize("kind", BAD)
def test_refused(kind: str) -> None:
    x, complaint = BAD[kind]
    with pytest.raises(UserError, match=complaint):
        arrays_dataset(x, missing=True, test_share=0.0)
