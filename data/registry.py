"""Data by name, or by path."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from score_sde.common.errors import UserError, choose, naming, one_line
from score_sde.common.files import at_home
from score_sde.data.dataset import Dataset
from score_sde.data.sources.cifar10 import load_cifar10
from score_sde.data.sources.digits import load_digits
from score_sde.data.sources.image_folder import SOURCES, load_image_folder
from score_sde.data.sources.path import load_path
from score_sde.data.sources.photos import load_photos
from score_sde.data.sources.picture import RESIZES, Resize
from score_sde.data.sources.picture import background as colour
from score_sde.data.sources.reading import Reading
from score_sde.data.sources.toys import TOYS, load_toy
from score_sde.data.split import Parts, split_evenly
from score_sde.data.units import units_of

# Each loader takes the folder of downloaded files, and how images are read.
DATASETS: dict[str, Callable[[Path, Reading], Parts]] = {
    "digits": lambda folder, reading: load_digits(),
    "photos": lambda folder, reading: load_photos(),
    "cifar10": lambda folder, reading: load_cifar10(folder),
    **{name: partial(lambda sample, folder, reading: load_toy(sample), sample) for name, sample in TOYS.items()},
    **{name: partial(load_image_folder, name) for name in SOURCES},
}
# What is done about damaged images: whether they are skipped.
DAMAGED = {"refuse": False, "skip": True}
RESIZE: dict[str, Resize] = {way: way for way in RESIZES}


def load_dataset(
    name: str = "digits",
    *,
    path: str | Path | None = None,
    folder: str | Path = "datasets",
    image_size: int | None = None,
    image_width: int | None = None,
    resize: str = "crop",
    num_channels: int | None = None,
    levels: int = 256,
    background: str = "white",
    damaged: str = "refuse",
    test_share: float = 0.1,
    split_seed: int = 0,
    validation: float = 0,
    fold: int = 0,
    low: float = -1.0,
    high: float = 1.0,
    uniform_dequantisation: bool = True,
) -> Dataset:
    """Load data by name, or from a path.

    Args:
        name: a key of `DATASETS`; ignored if there is a path.
        path: a file, a folder, or `hf:` and a name; see `data.sources.path.load_path`.
        folder: where downloaded files are, and what is kept of prepared pictures.
        image_size: height to which pictures are brought, and width if no other is given; None: as they are, all alike.
        image_width: width to which pictures are brought; None for the height.
        resize: how: "crop" what goes beyond, "pad" with background, "fit" by stretching; "none": they have that size.
        num_channels: the number of channels of a path's pictures: 1, grey, or 3, colour.
        levels: the number of levels of brightness of a path's pictures.
        background: the colour behind what is transparent of a path's pictures: a name, or `#ffffff`.
        damaged: "refuse" pictures that cannot be read, or "skip" them.
        test_share: the share of a path's examples that is set aside to test on, if no part of them is for that.
        split_seed: decides which examples are set aside to test on.
        validation: training examples to set aside for making choices: below 1 their share, or their number.
        fold: decides which examples are set aside for making choices.
        low: model units of the lower edge of the lowest level, for data that have levels; for points, of the level.
        high: model units of the upper edge of the highest level; for points, of the level.
        uniform_dequantisation: whether levels are bins, filled with uniform noise, or points; see `data.units`.

    Raises:
        UserError: there are no such data, their files are missing or damaged, or there are too few for `validation`.
    """
    if not 0 <= test_share < 1:
        raise UserError(f"test_share={test_share:g} must lie between 0 and 1: something must be left to train on")
    if not (0 <= validation < 1 or (math.isfinite(validation) and validation >= 1 and validation == int(validation))):
        raise UserError(f"validation={validation:g} is neither a share below 1 nor a number of examples")
    with naming("folder"):
        files = at_home(folder)
    reading = Reading(
        image_size=image_size,
        num_channels=num_channels,
        levels=levels,
        cache=files / "prepared",
        background=colour(background),
        test_share=test_share,
        split_seed=split_seed,
        validation=validation,
        fold=fold,
        skip_damaged=choose("way with damaged images", damaged, DAMAGED),
        image_width=image_width,
        resize=choose("way of resizing", resize, RESIZE),
    )
    if path is None:
        parts = choose("dataset", name, DATASETS)(files, reading)
    else:
        name = Path(path).name.split(".")[0] or "data"
        parts = load_path(str(path), reading)
    if parts.validation is None:
        parts = _with_validation(parts, validation, fold)
    return _dataset(name, parts, low, high, uniform_dequantisation)


def _dataset(name: str, parts: Parts, low: float, high: float, as_bins: bool) -> Dataset:
    assert parts.validation is not None
    return Dataset(
        name,
        parts.train,
        parts.test,
        units_of(parts.train, parts.levels, low, high, as_bins),
        parts.validation,
        parts.classes,
        parts.test_classes,
        parts.validation_classes,
        parts.class_names,
        tuple(map(one_line, parts.notes)),
    )


def _with_validation(parts: Parts, size: float, fold: int) -> Parts:
    """Take a validation part from the training part of a set that does not grow."""
    rest, taken = split_evenly(len(parts.train), size, fold, parts.classes, "validation")

    def classes(rows: torch.Tensor) -> torch.Tensor | None:
        return None if parts.classes is None else parts.classes[rows]

    return parts._replace(
        train=parts.train[rest] if size else parts.train,
        classes=classes(rest),
        validation=parts.train[taken],
        validation_classes=classes(taken),
    )
