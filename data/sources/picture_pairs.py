"""Pairs of pictures: each lies beside one of its name in another folder, or archive, which it is conditioned on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from score_sde.common.errors import UserError, nearest
from score_sde.data.sources.found import Arrays, Found, Pictures
from score_sde.data.sources.image_files import find_image_files
from score_sde.data.words import Part


def with_pairs(found: Found, beside: str) -> Found:
    """Return pictures that were found with those of the same names, whatever their suffixes, at another place.

    Raises:
        UserError: there is nothing there, or a picture has none of its name, or several; the line names the first.
    """
    path = Path(beside).expanduser()
    if not path.exists():
        raise UserError(f"there is no {beside}, which condition names: it is a folder of pictures with the same names")
    others = [part for part in find_image_files(path).parts.values() if isinstance(part, Pictures)]
    places: dict[str, tuple[Pictures, int]] = {}
    for pictures in others:
        for row, name in enumerate(pictures.names):
            if _stem(name) in places:
                raise UserError(f"{beside} has several pictures called {_stem(name)}: leave one")
            places[_stem(name)] = pictures, row
    parts: dict[Part, Pictures | Arrays] = {}
    for part, examples in found.parts.items():
        assert isinstance(examples, Pictures)
        parts[part] = replace(examples, beside=_in_order_of(examples, places, beside))
    return replace(found, parts=parts)


def _in_order_of(pictures: Pictures, places: Mapping[str, tuple[Pictures, int]], beside: str) -> Pictures:
    """Return the pictures of the same names, in their order."""
    for name in pictures.names:
        if _stem(name) not in places:
            raise UserError(f"{beside} has no picture called {_stem(name)}{nearest(_stem(name), places)}")
    chosen = [places[_stem(name)] for name in pictures.names]
    return Pictures(
        [other.places[row] for other, row in chosen],
        [other.names[row] for other, row in chosen],
        lambda number: chosen[number][0].open(chosen[number][1]),
        [[other.version for other in {id(other): other for other, _ in chosen}.values()], [row for _, row in chosen]],
    )


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
