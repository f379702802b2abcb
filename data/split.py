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

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data.words import Part


class Parts(NamedTuple):
    """Holds examples as a loader finds them.

    Attributes:
        train: training examples `(N, *shape)`, levels as uint8 or vectors as float32.
        test: examples to test on, in the format of `train`.
        levels: number of levels; None for vectors.
        classes: class of each training example `(N,)`, int64, or None if there are no classes.
        test_classes: class of each test example `(N,)`, int64, or None.
        class_names: what the classes are called, in their order.
        validation: examples that the data themselves set aside for choices; None if there is no such part.
        validation_classes: class of each validation example `(N,)`, int64, or None.
        notes: what the user should know of the reading, a line each.
        conditions: for each part, by name, what else its examples are conditioned on, `(N, k)` or `(N, C, *size)`.
        captions: for each part, the caption of each example; none for none.
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
    conditions: Mapping[Part, Mapping[str, Tensor]] = {}
    captions: Mapping[Part, Sequence[str]] = {}


class Split(NamedTuple):
    """Holds the rows of the two parts of a whole: those that are taken from it, and the rest."""

    rest: Tensor
    taken: Tensor


def split_by_name(
    names: Iterable[str],
    count: int,
    size: float,
    seed: int,
    groups: Sequence[str] | None,
    purpose: str,
    key: str,
    where: str,
) -> Split:
    """Take examples by the hash of their names, as this module's docstring describes.

    Args:
        names: the names of all examples, no two alike.
        count: how many these are.
        size: share of the examples, below 1, or their number.
        seed: the seed of the choice.
        groups: the class of each example, if they have any.
        purpose: what the examples are taken for, a part of the hash.
        key: what the caller calls `size`, for complaints.
        where: where the examples are, for complaints.

    Raises:
        UserError: there are too few examples.
    """
    if size == 0:
        return Split(torch.arange(count), torch.arange(0))
    if count < 2 or size >= count:
        raise UserError(
            f"cannot take {key}={size:g} of {count} examples of {where}: something must be left to train on; take "
            f"less ({key}=0 takes none)"
        )
    places = np.fromiter((_place(name, seed, purpose) for name in names), np.float64, count)
    by_place = np.argsort(places, kind="stable")
    wanted = int((places < size).sum()) if size < 1 else int(size)
    if groups is None:
        taken = by_place[: min(wanted, count - 1)]
    else:
        taken = _keeping_one_of_each(by_place, wanted, size < 1, groups)
    if size >= 1 and len(taken) < size:
        raise UserError(
            f"cannot take {key}={size:g} of {count} examples of {where}: each of its {len(set(groups or ()))} classes "
            "keeps one to train on; take less"
        )
    taken = np.sort(taken if len(taken) else by_place[:1])
    rest = np.ones(count, dtype=bool)
    rest[taken] = False
    return Split(torch.from_numpy(np.flatnonzero(rest)), torch.from_numpy(taken))


def _keeping_one_of_each(by_place: np.ndarray, wanted: int, is_share: bool, groups: Sequence[str]) -> np.ndarray:
    """Return the first rows of `by_place`, less those that are the last of their class.

    Of a share only the first so many rows are candidates; a number is made up from those behind.
    """
    left = Counter(groups)
    taken: list[int] = []
    for row in by_place[:wanted].tolist() if is_share else by_place.tolist():
        if len(taken) == wanted:
            break
        if left[groups[row]] > 1:
            left[groups[row]] -= 1
            taken.append(row)
    return np.array(taken, dtype=np.int64)


def split_evenly(count: int, size: float, seed: int, groups: Tensor | None, key: str) -> Split:
    """Take `size` of `count` examples (below 1: their share) by chance; every group has the same share of both.

    The choice is that of `train_test_split` of scikit-learn, which takes a second to import.

    Raises:
        UserError: there are too few examples; the line names `key`, what the caller calls `size`.
    """
    if size == 0:
        return Split(torch.arange(count), torch.arange(0))
    wanted = math.ceil(size * count) if size < 1 else int(size)
    kinds = np.zeros(count) if groups is None else groups.numpy()
    members = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    least = min(map(len, members), default=0)
    if not len(members) <= wanted <= count - len(members) or least < 2:
        num_classes = "" if groups is None else f" of {len(members)} classes"
        raise UserError(f"cannot take {key}={size:g} of {count} examples{num_classes}: take less, or more")
    generator = np.random.RandomState(seed)
    if groups is None:
        order = generator.permutation(count)
        return Split(torch.from_numpy(order[wanted:]), torch.from_numpy(order[:wanted]))
    sizes = np.array([len(rows) for rows in members])
    left = _shares(sizes, count - wanted, generator)
    took = _shares(sizes - left, wanted, generator)
    shuffled = [rows[generator.permutation(len(rows))] for rows in members]
    rest = np.concatenate([rows[:a] for rows, a in zip(shuffled, left, strict=True)])
    taken = np.concatenate([rows[a : a + b] for rows, a, b in zip(shuffled, left, took, strict=True)])
    return Split(torch.from_numpy(generator.permutation(rest)), torch.from_numpy(generator.permutation(taken)))


def _shares(sizes: np.ndarray, count: int, generator: np.random.RandomState) -> np.ndarray:
    """Divide `count` among classes in proportion to their `sizes` `(K,)`, in whole numbers.

    What rounding down leaves over goes to the classes that lost most by it, and among equals to some by chance.
    """
    exact = sizes / sizes.sum() * count
    shares = np.floor(exact)
    lost, over = exact - shares, int(count - shares.sum())
    for loss in np.unique(lost)[::-1]:
        if over == 0:
            break
        (equals,) = np.nonzero(lost == loss)
        chosen = generator.choice(equals, min(len(equals), over), replace=False)
        shares[chosen] += 1
        over -= len(chosen)
    return shares.astype(int)


def _place(name: str, seed: int, purpose: str) -> float:
    """Return the number `u` in [0, 1) of a name, by a hash of name, seed and purpose."""
    digest = blake2b(f"{purpose}\0{seed}\0{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
