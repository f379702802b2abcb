"""Data by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from data.cifar10 import load_cifar10
from data.dataset import Dataset
from data.digits import load_digits
from data.image_folder import SOURCES, load_image_folder
from data.split import Parts, split_validation
from data.toys import TOYS, load_toy
from errors import choose

# Each takes the folder of downloaded files, and the size that images are resized to, if they are.
DATASETS: dict[str, Callable[[Path, int | None], Parts]] = {
    "digits": lambda folder, size: load_digits(),
    "cifar10": lambda folder, size: load_cifar10(folder),
    **{name: partial(lambda sample, folder, size: load_toy(sample), sample) for name, sample in TOYS.items()},
    **{name: partial(load_image_folder, name) for name in SOURCES},
}


def load_dataset(
    name: str,
    *,
    folder: str | Path = "datasets",
    image_size: int | None = None,
    validation: int = 0,
    fold: int = 0,
    low: float = -1.0,
    high: float = 1.0,
) -> Dataset:
    """Load data by name.

    Args:
        name: a key of `DATASETS`.
        folder: where downloaded files are (only `cifar10` and folders of images need any).
        image_size: height and width to which the images of a folder are resized.
        validation: number of training examples to set aside for making choices, the same share of each class.
        fold: seed of that choice.
        low: model units of the lower edge of the lowest level, for data that have levels.
        high: model units of the upper edge of the highest.

    Raises:
        UserError: there are no such data, their files are missing or damaged, or there are too few for `validation`.
    """
    parts = choose("dataset", name, DATASETS)(Path(folder), image_size)
    train, held_out = split_validation(parts, validation, fold)
    return Dataset(name, train, parts.test, parts.levels, low, high, held_out)
