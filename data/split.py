"""What a loader returns, and how a validation part is taken from it."""

from __future__ import annotations

from typing import NamedTuple

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
        classes: class of each training example `(N,)`, or None if there are no classes.
    """

    train: Tensor
    test: Tensor
    levels: int | None = None
    classes: Tensor | None = None


def split_validation(parts: Parts, size: int, fold: int = 0) -> tuple[Tensor, Tensor]:
    """Split the training part in two, training `(N - size, *shape)` and validation `(size, *shape)`.

    Every class, if there are classes, has the same share of both (to rounding).

    Args:
        parts: the data.
        size: number of validation examples.
        fold: seed of the choice; another fold is another choice.

    Raises:
        UserError: there are too few examples.
    """
    if size == 0:
        return parts.train, parts.train[:0]
    try:
        train, validation = train_test_split(
            torch.arange(len(parts.train)).numpy(),
            test_size=size,
            random_state=fold,
            stratify=None if parts.classes is None else parts.classes.numpy(),
        )
    except ValueError as error:
        raise UserError(
            f"cannot take data.validation={size} of {len(parts.train)} training examples: {error}"
        ) from error
    return parts.train[train], parts.train[validation]
