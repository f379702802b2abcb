"""Pictures that were found as one array: taken as they are, or opened one by one like files, to get another size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources.copies import in_parts
from score_sde.data.sources.found import Arrays, Found, Pictures
from score_sde.data.sources.pictures import load_pictures
from score_sde.data.sources.reading import Reading
from score_sde.data.split import Parts
from score_sde.data.words import Part

if TYPE_CHECKING:
    from PIL import Image

# Arrays whose highest level is below this have, probably, fewer levels than they may have.
_FEW = 128


def load_array_pictures(
    found: Found, arrays: Mapping[Part, Arrays], place: str, reading: Reading, version: object, as_levels: bool
) -> Parts:
    """Load pictures as they are, if they have the format asked for; else they are resized like files.

    Raises:
        UserError: there are levels above those asked for, or levels that cannot be resized.
    """
    highest = check_levels(arrays, reading) if as_levels else 255
    if highest < _FEW and reading.levels == 256:
        note = f"{place} has levels up to {highest} only, of 256: if it has fewer, say so (levels)"
        found = replace(found, notes=(*found.notes, note))
    channels, *size = arrays["train"].examples.shape[1:]
    fits = reading.size in (None, tuple(size)) and reading.num_channels in (None, channels)
    if fits and (as_levels or reading.levels == 256):
        return in_parts(found, arrays, reading.levels, place, reading, version)
    if as_levels and reading.levels != 256:
        raise UserError(
            f"{place} holds {reading.levels} levels as they are, which cannot be resized: leave out image_size"
        )
    pictures = {part: _as_pictures(array, [version, part]) for part, array in arrays.items()}
    reading = replace(reading, num_channels=reading.num_channels or channels)
    return load_pictures(replace(found, parts=pictures), place, reading)


def _as_pictures(array: Arrays, version: object) -> Pictures:
    """Return pictures in an array as ones that are opened like files."""
    from PIL import Image

    def picture(row: int) -> Image.Image:
        pixels = array.examples[row].transpose(1, 2, 0)
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))

    places = [f"{array.where}[{row}]" for row in range(len(array))]
    return Pictures(places, array.names, picture, version, array.classes, array.conditions)


def check_levels(arrays: Mapping[Part, Arrays], reading: Reading) -> int:
    """Return the highest level of all parts.

    Raises:
        UserError: it is above the levels there are.
    """
    highest = {part: int(array.examples.max(initial=0)) for part, array in arrays.items()}
    for part, level in highest.items():
        if level >= reading.levels:
            raise UserError(
                f"{arrays[part].where} has levels up to {level}: give levels={max(highest.values()) + 1} or more"
            )
    return max(highest.values())
