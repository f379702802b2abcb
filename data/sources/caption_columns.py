"""Captions that are a column of a table of pictures, as the library datasets has them: `caption`, or `text`.

Another column is read if it is asked for by name. Captions are there for all rows, or for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from score_sde.common.errors import UserError, nearest
from score_sde.data.captions import CAPTION
from score_sde.data.words import listed

_NAMES = (CAPTION, f"{CAPTION}s", "text")
_TEXTS = ("string", "large_string")


def caption_column(features: Any, wanted: Sequence[str], place: str) -> str | None:
    """Return the column of the captions, `wanted` or of a usual name; None if there is none.

    Raises:
        UserError: what is wanted is no column of texts, or several are.
    """
    texts = [name for name, kind in features.items() if getattr(kind, "dtype", None) in _TEXTS]
    if not wanted:
        return next((name for name in _NAMES if name in texts), None)
    if len(wanted) > 1 or wanted[0] not in texts:
        like = nearest(wanted[0], texts)
        raise UserError(
            f"{place} has pictures, which are conditioned on one column of texts ({listed(texts) or 'it has none'}), "
            f"not on {listed(wanted)}{like}"
        )
    return wanted[0]


def captions_of(part: Any, column: str, place: str) -> np.ndarray | None:
    """Return the captions of a part, a `datasets.Dataset`, `(N,)`; None if no row has one.

    Raises:
        UserError: some rows have none.
    """
    texts = part[column][:]
    missing = [row for row, text in enumerate(texts) if text is None]
    if len(missing) == len(texts):
        return None
    if missing:
        raise UserError(
            f"{place}: column {column} has no caption for {len(missing)} of {len(texts)} rows, first row {missing[0]}: "
            "leave them out"
        )
    return np.array([" ".join(text.split()) for text in texts], dtype=np.str_)


def unread_texts(features: Any, column: str | None, place: str) -> list[str]:
    """Write a note on columns that are called as captions are, and not read; nothing if there are none."""
    others = [name for name in _NAMES if name in features and name != column]
    if not others:
        return []
    why = f", but those of {column}" if column else ": one text a picture is read"
    return [f"{place}: captions of the column {listed(others)} are not read{why}"]
