"""What every way of loading data has in common: options, checked, and what a loader found, made a dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from score_sde.common.errors import UserError, choose, naming, one_line
from score_sde.common.files import at_home
from score_sde.data.box import Box, box_of
from score_sde.data.captions import CAPTION, Words
from score_sde.data.conditions import ConditionUnits, condition_units
from score_sde.data.dataset import Dataset
from score_sde.data.embedded import Embedded, embedded
from score_sde.data.sources.picture import background as colour
from score_sde.data.sources.picture_format import RESIZES, Resize
from score_sde.data.sources.reading import Reading
from score_sde.data.split import Parts
from score_sde.data.units import units_of

# What is done about damaged images: whether they are skipped.
DAMAGED = {"refuse": False, "skip": True}
RESIZE: dict[str, Resize] = {way: way for way in RESIZES}


def reading_of(
    *,
    folder: str | Path,
    image_size: int | None,
    image_width: int | None,
    resize: str,
    num_channels: int | None,
    levels: int,
    background: str,
    test_share: float,
    split_seed: int,
    validation: float,
    fold: int,
    damaged: str = "refuse",
    missing: bool = False,
    condition: str | None = None,
) -> Reading:
    """Return how data are to be read, by options of `data.registry.load_dataset`.

    Raises:
        UserError: an option cannot be.
    """
    if not 0 <= test_share < 1:
        raise UserError(f"test_share={test_share:g} must lie between 0 and 1: something must be left to train on")
    if not (0 <= validation < 1 or (math.isfinite(validation) and validation >= 1 and validation == int(validation))):
        raise UserError(f"validation={validation:g} is neither a share below 1 nor a number of examples")
    with naming("folder"):
        files = at_home(folder)
    return Reading(
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
        missing=missing,
        condition=tuple(word for word in map(str.strip, (condition or "").split(",")) if word),
    )


def dataset_of(
    name: str,
    parts: Parts,
    low: float,
    high: float,
    as_bins: bool,
    box_low: Sequence[float] = (),
    box_high: Sequence[float] = (),
    text_encoder: str | None = None,
    cache: Path = Path("datasets"),
) -> Dataset:
    """Return the dataset of what a loader found, in the units that its training part decides.

    Args:
        name: what the dataset is called.
        parts: the examples, of which there is a validation part.
        low: lower end of the interval that levels lie in, in model units.
        high: its upper end.
        as_bins: whether levels are bins or points.
        box_low: lower ends of the box that vectors lie in; none for none.
        box_high: its upper ends.
        text_encoder: the folder of the encoder by which captions are told; None for words.
        cache: where captions are kept that were embedded.

    Raises:
        UserError: examples lie outside the box, or cannot lie in one; or captions cannot be embedded.
    """
    assert parts.validation is not None
    shape = tuple(parts.train.shape[1:])
    box = box_of(box_low, box_high, shape)
    if box is not None:
        _check_inside(box, name, {"train": parts.train, "test": parts.test, "validation": parts.validation})
    of_train = parts.conditions.get("train", {})
    units: dict[str, ConditionUnits | Words | Embedded] = {
        name: condition_units(name, values, shape) for name, values in of_train.items()
    }
    conditions = parts.conditions
    if text_encoder is not None and not parts.captions:
        raise UserError(f"text_encoder={text_encoder} is for data with captions, and {name} has none: leave it out")
    if parts.captions:
        if text_encoder is None:
            words = units[CAPTION] = Words.of(parts.captions["train"])
            told = {part: words.read(captions) for part, captions in parts.captions.items()}
        else:
            units[CAPTION], told = embedded(parts.captions, text_encoder, cache)
        conditions = {part: {**conditions.get(part, {}), CAPTION: numbers} for part, numbers in told.items()}
    return Dataset(
        name,
        parts.train,
        parts.test,
        units_of(parts.train, parts.levels, low, high, as_bins, box),
        parts.validation,
        parts.classes,
        parts.test_classes,
        parts.validation_classes,
        parts.class_names,
        tuple(map(one_line, parts.notes)),
        conditions=conditions,
        condition_units=units,
        captions=parts.captions,
    )


def _check_inside(box: Box, name: str, parts: Mapping[str, Tensor]) -> None:
    """See that the examples of all parts lie in a box.

    Raises:
        UserError: some do not; the line tells the first.
    """
    for part, examples in parts.items():
        outside = ~box.holds(examples)
        if outside.any():
            first = int(outside.long().argmax())
            raise UserError(
                f"{int(outside.sum())} of {len(examples)} {part} examples of {name} lie outside the box, first number "
                f"{first}: {[round(value, 6) for value in examples[first].tolist()[:8]]}"
            )
