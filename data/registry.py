"""Data by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from data.cifar10 import load_cifar10
from data.dataset import Dataset
from data.digits import load_digits
from data.split import Parts, split_validation
from data.toys import TOYS, load_toy
from errors import choose

# Each takes the folder of downloaded files.
DATASETS: dict[str, Callable[[Path], Parts]] = {
    "digits": lambda folder: load_digits(),
    "cifar10": load_cifar10,
    **{name: partial(lambda sample, folder: load_toy(sample), sample) for name, sample in TOYS.items()},
}


def load_dataset(
    name: str,
    *,
    folder: str | Path = "datasets",
    validation: int = 0,
    fold: int = 0,
    low: float = -1.0,
    high: float = 1.0,
) -> Dataset:
    """Load data by name.

    Args:
        name: a key of `DATASETS`.
        folder: where downloaded files are (only `cifar10` needs any).
        validation: number of training examples to set aside for making choices, the same share of each class.
        fold: seed of that choice.
        low: model units of the lower edge of the lowest level, for data that have levels.
        high: model units of the upper edge of the highest.

    Raises:
        UserError: there are no such data, their files are missing or damaged, or there are too few for `validation`.
    """
    parts = choose("dataset", name, DATASETS)(Path(folder))
    train, held_out = split_validation(parts, validation, fold)
    return Dataset(name, train, parts.test, parts.levels, low, high, held_out)
