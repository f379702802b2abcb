"""Arrays that were found, made into the parts of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from score_sde.common.errors import UserError
from score_sde.data.sources.array_pictures import check_levels, load_array_pictures
from score_sde.data.sources.copies import in_parts
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.sources.reading import Reading
from score_sde.data.split import Parts
from score_sde.data.words import Part


def load_arrays(found: Found, place: str, reading: Reading, version: object, as_levels: bool = True) -> Parts:
    """Load arrays, all parts of which must be of one kind and shape.

    Args:
        found: what a reader found, all of it arrays.
        place: where the data are, for messages.
        reading: how the data are read.
        version: a value that changes whenever the arrays do.
        as_levels: whether pictures hold the levels as they are; else they have 256, reduced to those asked for.

    Raises:
        UserError: parts are not alike, or numbers have no density.
    """
    arrays = {part: array for part, array in found.parts.items() if isinstance(array, Arrays)}
    first = arrays["train"]
    shape = first.examples.shape[1:]
    for part, array in arrays.items():
        if array.examples.shape[1:] != shape:
            raise UserError(
                f"{array.where} has examples of shape {array.examples.shape[1:]}, but the training part {shape}: the "
                f"{part} part must be like it"
            )
        if array.has_levels != first.has_levels:
            kinds = "levels, uint8", f"{array.examples.dtype} numbers"
            raise UserError(
                f"{array.where} has {kinds[not array.has_levels]}, unlike the training part ({first.examples.dtype}): "
                f"the {part} part must be like it"
            )
        if array.columns != first.columns:
            raise UserError(
                f"{array.where} has the columns {', '.join(array.columns)}, but the training part "
                f"{', '.join(first.columns)}: the {part} part must be like it"
            )
    if not first.has_levels:
        return _load_numbers(found, arrays, place, reading, version)
    if len(shape) == 3:
        return load_array_pictures(found, arrays, place, reading, version, as_levels)
    if reading.image_size is not None:
        raise UserError(f"{place} has volumes of shape {shape}, which are not resized: leave out image_size")
    check_levels(arrays, reading)
    return in_parts(found, arrays, reading.levels, place, reading, version)


def _load_numbers(found: Found, arrays: Mapping[Part, Arrays], place: str, reading: Reading, version: object) -> Parts:
    shape = arrays["train"].examples.shape[1:]
    if len(shape) == 2:
        note = (
            f"{place} has series, of {shape[0]} channels and {shape[1]} steps each; fields of one channel are saved "
            "as (N, 1, H, W)"
        )
        found = replace(found, notes=(*found.notes, note))
    if len(shape) == 3 and reading.size not in (None, shape[1:]):
        raise UserError(
            f"{place} has fields of {shape[1]} x {shape[2]} numbers, which are not resized: leave out image_size"
        )
    return in_parts(found, arrays, None, place, reading, version)
