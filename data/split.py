r"""What a loader returns, and how test and validation parts are taken from it.

Users' data grow while they are used. So whether an example of theirs belongs to a part is decided by its name alone
(its path below the folder, or its row), never by how many others there are: with a hash of seed and name, read as a
number `u` in [0, 1),

    a share s    those with u < s
    a count n    the n smallest

so that what was trained on is not tested on when more is added. Every class keeps an example to train on, and every
part that is asked for gets one. The sets that come with the project do not grow; they are split evenly by class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError


class Parts(NamedTuple):
    """Examples as a loader finds them.

    Attributes:
        train: `(N, *shape)`, levels as uint8 or vectors as float32.
        test: likewise.
        levels: number of levels, or None.
        classes: class of each training example `(N,)`, int64, or None if there are no classes.
        test_classes: of each test example, likewise.
        class_names: what they are called, in their order.
        validation: examples that the data themselves set aside for choices; None if there is no such part.
        validation_classes: of each of these, likewise.
        notes: what the user should know of the reading, a line each.
    """

    train: Tensor
    test: Tensor
    levels: int | None = None
    classes: Tensor | None = None
    test_classes: Tensor | None = None
    class_names: tuple[str, ...] = ()
    validation: Tensor | None = None
    validation_classes: Tensor | None = None
    notes: tuple[str, ...] = ()


class Split(NamedTuple):
    """Rows of the two parts of a whole."""

    rest: Tensor
    taken: Tensor


def split_by_name(
    names: Sequence[str], size: float, seed: int, groups: Sequence[str] | None, purpose: str, key: str, where: str
) -> Split:
    """Take examples by the hash of their names; see above.

    Args:
        names: of all examples, each its own.
        size: share of the examples, below 1, or their number.
        seed: of the choice.
        groups: the class of each example, if they have any.
        purpose: what they are taken for; another one is another choice.
        key: the configuration's name for `size`.
        where: the examples are, for complaints.

    Raises:
        UserError: there are too few examples.
    """
    if size == 0:
        return Split(torch.arange(len(names)), torch.arange(0))
    if len(names) < 2 or size >= len(names):
        raise UserError(
            f"cannot take {key}={size:g} of {len(names)} examples of {where}: something must be left to train on; take "
            f"less (--config.{key}=0 takes none)"
        )
    places = [_place(name, seed, purpose) for name in names]
    left = Counter(groups or [""] * len(names))
    taken: list[int] = []
    by_place = np.argsort(places, kind="stable").tolist()
    for row in by_place:
        if (places[row] >= size) if size < 1 else (len(taken) >= size):
            break
        kind = groups[row] if groups else ""
        if left[kind] > 1:
            left[kind] -= 1
            taken.append(row)
    if size >= 1 and len(taken) < size:
        raise UserError(
            f"cannot take {key}={size:g} of {len(names)} examples of {where}: each of its {len(left)} classes keeps "
            "one to train on; take less"
        )
    taken = sorted(taken or by_place[:1])
    rest = np.setdiff1d(np.arange(len(names)), taken)
    return Split(torch.from_numpy(rest), torch.tensor(taken, dtype=torch.int64))


def split_evenly(count: int, size: float, seed: int, groups: Tensor | None, key: str) -> Split:
    """Take `size` of `count` examples (below 1: their share) by chance; every group has the same share of both.

    Raises:
        UserError: there are too few examples; the line names the configuration's `key`.
    """
    from sklearn.model_selection import train_test_split

    if size == 0:
        return Split(torch.arange(count), torch.arange(0))
    stratify = None if groups is None else groups.numpy()
    wanted = size if size < 1 else int(size)
    try:
        rest, taken = train_test_split(np.arange(count), test_size=wanted, random_state=seed, stratify=stratify)
    except ValueError as error:
        num_classes = "" if stratify is None else f" of {len(np.unique(stratify))} classes"
        raise UserError(f"cannot take {key}={size:g} of {count} examples{num_classes}: take less, or more") from error
    return Split(torch.from_numpy(rest), torch.from_numpy(taken))


def _place(name: str, seed: int, purpose: str) -> float:
    """A number in [0, 1) that depends on these alone."""
    digest = blake2b(f"{purpose}\0{seed}\0{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
