"""What a loader returns, and how test and validation parts are taken from it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from errors import UserError


class Parts(NamedTuple):
    """Examples as a loader finds them.

    Attributes:
        train: `(N, *shape)`, levels as uint8 or vectors as float32.
        test: likewise.
        levels: number of levels, or None.
        classes: class of each training example `(N,)`, int64, or None if there are no classes.
        test_classes: of each test example, likewise.
        class_names: what they are called; empty if they are mere numbers.
        note: what the user should know of the reading; may be empty.
    """

    train: Tensor
    test: Tensor
    levels: int | None = None
    classes: Tensor | None = None
    test_classes: Tensor | None = None
    class_names: tuple[str, ...] = ()
    note: str = ""


class Split(NamedTuple):
    """Rows of the two parts of a whole."""

    rest: Tensor
    taken: Tensor


def split(count: int, size: int | float, seed: int, classes: Tensor | None, what: str) -> Split:
    """Take `size` of `count` examples by chance; every class, if there are classes, has the same share of both.

    Args:
        count: of all examples.
        size: number of those taken, or, as a float, their share.
        seed: of the choice.
        classes: of the examples `(count,)`, if they have any.
        what: the configuration's name for `size`.

    Raises:
        UserError: there are too few examples.
    """
    if size == 0:
        return Split(torch.arange(count), torch.arange(0))
    stratify = None if classes is None else classes.numpy()
    try:
        rest, taken = train_test_split(np.arange(count), test_size=size, random_state=seed, stratify=stratify)
    except ValueError as error:
        raise UserError(f"cannot take {what}={size} of {count} examples: {error}") from error
    return Split(torch.from_numpy(rest), torch.from_numpy(taken))
