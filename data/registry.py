"""Data by name, by path, or given from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from score_sde.common.errors import UserError, choose
from score_sde.data.dataset import Dataset
from score_sde.data.loading import dataset_of, reading_of
from score_sde.data.sources.cifar10 import load_cifar10
from score_sde.data.sources.digits import load_digits
from score_sde.data.sources.given import found_in_parts, load_given
from score_sde.data.sources.glyphs import load_glyphs
from score_sde.data.sources.image_folder import SOURCES, load_image_folder
from score_sde.data.sources.matplotlib_samples import load_eeg, load_elevation
from score_sde.data.sources.path import load_path
from score_sde.data.sources.photos import load_photos
from score_sde.data.sources.reading import Reading
from score_sde.data.sources.toy_volumes import load_toy_volumes
from score_sde.data.sources.toys import TOYS, load_toy
from score_sde.data.split import Parts, split_evenly
from score_sde.data.words import Part

# Each loader takes the folder of downloaded files, and how images are read.
DATASETS: dict[str, Callable[[Path, Reading], Parts]] = {
    "digits": lambda folder, reading: load_digits(),
    "photos": lambda folder, reading: load_photos(),
    "cifar10": lambda folder, reading: load_cifar10(folder),
    "eeg": lambda folder, reading: load_eeg(),
    "elevation": lambda folder, reading: load_elevation(),
    "glyphs": lambda folder, reading: load_glyphs(reading),
    "glyphs_all": lambda folder, reading: load_glyphs(reading, everything=True),
    "toy_volumes": lambda folder, reading: load_toy_volumes(),
    **{name: partial(lambda sample, folder, reading: load_toy(sample), sample) for name, sample in TOYS.items()},
    **{name: partial(load_image_folder, name) for name in SOURCES},
}


def load_dataset(
    name: str = "digits",
    *,
    path: str | Path | None = None,
    condition: str | None = None,
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
    missing: bool = False,
    low: float = -1.0,
    high: float = 1.0,
    uniform_dequantisation: bool = True,
    box_low: Sequence[float] = (),
    box_high: Sequence[float] = (),
    text_encoder: str | None = None,
) -> Dataset:
    """Load data by name, or from a path.

    Args:
        name: a key of `DATASETS`; ignored if there is a path.
        path: a file, a folder, or `hf:` and a name; see `data.sources.path.load_path`.
        condition: what a path's examples are conditioned on: names of arrays of its file, or columns of its table,
            separated by commas. (Arrays that are called condition are, without being named.)
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
        missing: whether numbers without levels may be missing, as NaN or empty cells; they are refused otherwise.
        low: model units of the lower edge of the lowest level, for data that have levels; for points, of the level.
        high: model units of the upper edge of the highest level; for points, of the level.
        uniform_dequantisation: whether levels are bins, filled with uniform noise, or points; see `data.units`.
        box_low: lower ends of a box that vectors lie in, one for each number, or one for all; none for no box.
        box_high: its upper ends.
        text_encoder: the folder of a text encoder, CLIP's or T5's, that captions are told by; None for their words.

    Raises:
        UserError: there are no such data, their files are missing or damaged, or there are too few for `validation`.
    """
    reading = reading_of(
        folder=folder,
        image_size=image_size,
        image_width=image_width,
        resize=resize,
        num_channels=num_channels,
        levels=levels,
        background=background,
        damaged=damaged,
        condition=condition,
        test_share=test_share,
        split_seed=split_seed,
        validation=validation,
        fold=fold,
        missing=missing,
    )
    if path is None:
        if condition is not None:
            raise UserError(f"{name} comes without conditions: leave them out, or give a path")
        parts = choose("dataset", name, DATASETS)(reading.cache.parent, reading)
    else:
        name = Path(path).name.split(".")[0] or "data"
        parts = load_path(str(path), reading)
    if parts.validation is None:
        parts = _with_validation(parts, validation, fold)
    return dataset_of(name, parts, low, high, uniform_dequantisation, box_low, box_high, text_encoder, reading.cache)


def arrays_dataset(
    x: Any,
    labels: Any = None,
    *,
    name: str = "data",
    condition: str | None = None,
    test_examples: Any = None,
    test_labels: Any = None,
    validation_examples: Any = None,
    validation_labels: Any = None,
    folder: str | Path = "datasets",
    image_size: int | None = None,
    image_width: int | None = None,
    resize: str = "crop",
    num_channels: int | None = None,
    levels: int = 256,
    background: str = "white",
    test_share: float = 0.1,
    split_seed: int = 0,
    validation: float = 0,
    fold: int = 0,
    missing: bool = False,
    low: float = -1.0,
    high: float = 1.0,
    uniform_dequantisation: bool = True,
    box_low: Sequence[float] = (),
    box_high: Sequence[float] = (),
    text_encoder: str | None = None,
) -> Dataset:
    """Make a dataset of examples that Python has, as `load_dataset` does of an `.npy` or `.npz` file with them.

    Args:
        x: examples `(N, *shape)`: an array or tensor; a torch `Dataset`, or anything else that gives one example after
            the other, with its class or without; a dictionary of arrays, as an `.npz` file has them; or a pandas
            `DataFrame`.
        labels: the class of each example, `(N,)`, whole numbers or words, unless `x` has them; or what else it is
            conditioned on, numbers `(N, k)` or `(N, C, *size)`, or several by name; None for nothing.
        name: what the dataset is called.
        condition: names of arrays, or columns, of `x` that its examples are conditioned on, separated by commas.
        test_examples: examples to test on, given like `x`; None to take them from `x`.
        test_labels: the class of each of them.
        validation_examples: examples for making choices, given like `x`; None to take them from `x`.
        validation_labels: the class of each of them.
        folder: where the parts of an array that is mapped from a file, and too large to be loaded, are kept.
        image_size: as of `load_dataset`, like all that follow.

    Raises:
        UserError: these are no examples, or they cannot be read rightly.
    """
    reading = reading_of(
        folder=folder,
        image_size=image_size,
        image_width=image_width,
        resize=resize,
        num_channels=num_channels,
        levels=levels,
        background=background,
        test_share=test_share,
        split_seed=split_seed,
        validation=validation,
        fold=fold,
        missing=missing,
        condition=condition,
    )
    given: dict[Part, tuple[Any, Any]] = {
        "train": (x, labels),
        "test": (test_examples, test_labels),
        "validation": (validation_examples, validation_labels),
    }
    parts = load_given(found_in_parts(given, name, reading.condition), name, reading)
    return dataset_of(name, parts, low, high, uniform_dequantisation, box_low, box_high, text_encoder, reading.cache)


def _with_validation(parts: Parts, size: float, fold: int) -> Parts:
    """Take a validation part from the training part of a set that does not grow."""
    rest, taken = split_evenly(len(parts.train), size, fold, parts.classes, "validation")

    def classes(rows: torch.Tensor) -> torch.Tensor | None:
        return None if parts.classes is None else parts.classes[rows]

    captions: dict[Part, Sequence[str]] = dict(parts.captions)
    if captions:
        captions["validation"] = [parts.captions["train"][row] for row in taken.tolist()]
        captions["train"] = [parts.captions["train"][row] for row in rest.tolist()]
    return parts._replace(
        train=parts.train[rest] if size else parts.train,
        classes=classes(rest),
        validation=parts.train[taken],
        validation_classes=classes(taken),
        captions=captions,
    )
