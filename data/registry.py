"""Data by name, or by path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from data.cifar10 import load_cifar10
from data.dataset import Dataset
from data.digits import load_digits
from data.image_folder import SOURCES, load_image_folder
from data.own import load_path
from data.photos import load_photos
from data.split import Parts, split
from data.toys import TOYS, load_toy
from errors import choose

# Each takes the folder of downloaded files, the size that images are resized to, if they are, and whether to leave out
# images that cannot be read.
DATASETS: dict[str, Callable[[Path, int | None, bool], Parts]] = {
    "digits": lambda folder, size, skip: load_digits(),
    "photos": lambda folder, size, skip: load_photos(),
    "cifar10": lambda folder, size, skip: load_cifar10(folder),
    **{name: partial(lambda sample, folder, size, skip: load_toy(sample), sample) for name, sample in TOYS.items()},
    **{name: partial(load_image_folder, name) for name in SOURCES},
}
# What is done about damaged images: whether they are skipped.
DAMAGED = {"refuse": False, "skip": True}


def load_dataset(
    name: str,
    *,
    path: str | None = None,
    folder: str | Path = "datasets",
    image_size: int | None = None,
    num_channels: int | None = None,
    levels: int = 256,
    damaged: str = "refuse",
    test_share: float = 0.1,
    split_seed: int = 0,
    validation: int = 0,
    fold: int = 0,
    low: float = -1.0,
    high: float = 1.0,
) -> Dataset:
    """Load data by name, or from a path.

    Args:
        name: a key of `DATASETS`; ignored if there is a path.
        path: see `data.own.load_path`, as for the number of channels, the levels and the test share.
        folder: where downloaded files are, and what is kept of prepared pictures.
        image_size: height and width to which pictures are resized.
        num_channels: of a path's pictures.
        levels: of a path's pictures.
        damaged: "refuse" pictures that cannot be read, or "skip" them.
        test_share: of a path's examples.
        split_seed: decides which.
        validation: number of training examples to set aside for making choices, the same share of each class.
        fold: seed of that choice.
        low: model units of the lower edge of the lowest level, for data that have levels.
        high: model units of the upper edge of the highest.

    Raises:
        UserError: there are no such data, their files are missing or damaged, or there are too few for `validation`.
    """
    skip_damaged = choose("way with damaged images", damaged, DAMAGED)
    if path is None:
        parts = choose("dataset", name, DATASETS)(Path(folder), image_size, skip_damaged)
    else:
        name = Path(path).name.split(".")[0] or "data"
        parts = load_path(
            path,
            image_size=image_size,
            num_channels=num_channels,
            levels=levels,
            cache=Path(folder) / "prepared",
            test_share=test_share,
            split_seed=split_seed,
            skip_damaged=skip_damaged,
        )
    train, train_classes = parts.train, parts.classes
    held_out, held_out_classes = train[:0], None if train_classes is None else train_classes[:0]
    if validation:
        rest, taken = split(len(train), validation, fold, train_classes, "data.validation")
        train, held_out = train[rest], train[taken]
        if train_classes is not None:
            train_classes, held_out_classes = train_classes[rest], train_classes[taken]
    return Dataset(
        name,
        train,
        parts.test,
        parts.levels,
        low,
        high,
        held_out,
        train_classes,
        parts.test_classes,
        held_out_classes,
        parts.class_names,
        parts.note,
    )
