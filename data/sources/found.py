"""What a reader finds: for each part of the data its examples, as one array or to be opened one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from score_sde.data.words import Part

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Pictures:
    """Holds pictures, each of which is opened when it is needed.

    Attributes:
        places: where each picture is, for complaints.
        names: a name of each picture, which decides the part that it is taken for; see `data.split`.
        open: opens the picture with this number.
        version: a value that changes whenever a picture does.
        classes: what the class of each example is called; None if there are no classes.
        conditions: by name, what else each example is conditioned on: vectors `(N, k)`, or `(N, C, *size)`.
        beside: as many pictures that these are conditioned on; None if there are none.
    """

    places: Sequence[str]
    names: Sequence[str]
    open: Callable[[int], Image.Image]
    version: object
    classes: Sequence[str] | None = None
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict)
    beside: Pictures | None = None

    def __len__(self) -> int:
        return len(self.places)


class _Numbers(Sequence[str]):
    """Holds the numbers of rows as names, which are made when they are asked for."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: Any) -> Any:
        return str(row)


@dataclass(frozen=True)
class Arrays:
    """Holds examples as one array, in memory or mapped from a file.

    Attributes:
        where: where the examples are, for complaints.
        examples: levels uint8, `(N, C, H, W)` or `(N, C, D, H, W)`, or numbers of any other dtype, `(N, d)`,
            `(N, C, L)`, `(N, C, H, W)` or `(N, C, D, H, W)`.
        classes: what the class of each example is called; None if there are no classes.
        columns: what the columns of a table are called; none, if they have numbers only.
        conditions: by name, what else each example is conditioned on: vectors `(N, k)`, or `(N, C, *size)`.
    """

    where: str
    examples: np.ndarray
    classes: Sequence[str] | None = None
    columns: tuple[str, ...] = ()
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def names(self) -> Sequence[str]:
        """The name of each example is the number of its row; see `data.split`."""
        return _Numbers(len(self.examples))

    @property
    def has_levels(self) -> bool:
        """This is True of levels, and False of numbers without."""
        return self.examples.dtype == np.uint8


@dataclass(frozen=True)
class Found:
    """Holds what a reader finds at a place; all parts are of one kind.

    Attributes:
        parts: the examples of each part, of which one is to train on.
        class_order: all classes in their order, if the data say it.
        notes: what the user should know of the reading, a line each.
    """

    parts: Mapping[Part, Pictures | Arrays]
    class_order: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
