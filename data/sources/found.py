"""What a reader finds: for each part of the data its examples, in memory or to be opened one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from score_sde.data.words import Part

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Pictures:
    """Pictures, each opened when it is needed.

    Attributes:
        places: where each is, for complaints.
        names: what decides the part that each is taken for; see `data.split`.
        open: opens the one with this number.
        version: changes whenever a picture does.
        classes: what the class of each is called, or None.
    """

    places: Sequence[str]
    names: Sequence[str]
    open: Callable[[int], Image.Image]
    version: object
    classes: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Arrays:
    """Examples in memory.

    Attributes:
        where: they are, for complaints.
        examples: pictures `(N, C, H, W)`, uint8, or vectors `(N, d)`, float32.
        classes: what the class of each is called, or None.
    """

    where: str
    examples: np.ndarray
    classes: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def names(self) -> list[str]:
        """The number of each row; see `data.split`."""
        return [str(row) for row in range(len(self.examples))]


@dataclass(frozen=True)
class Found:
    """What there is at a place; all parts are of one kind.

    Attributes:
        parts: the examples of each part; there is one to train on.
        class_order: all classes in their order, if the data say it.
        notes: what the user should know of the reading, a line each.
    """

    parts: Mapping[Part, Pictures | Arrays]
    class_order: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
