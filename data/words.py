"""What names say of the part of the data that a file, a folder or an array is.

    train        train, training, trainset
    validation   val, valid, validation, dev
    test         test, testing, testset, t10k

These words count in any case, anywhere in a name, where a word begins and ends with a letter's change to something else
or to a capital: `qmnist-train-images-idx3-ubyte.gz`, `Test`, `valImages`, `x_test`, `train2017`; but not `contest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar

from score_sde.common.errors import UserError

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
HELD_OUT: tuple[Part, ...] = ("validation", "test")

_T = TypeVar("_T")

_WORDS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "xtrain", "ytrain"),
    "validation": ("val", "valid", "validation", "dev", "valset", "devset", "xval", "yval", "xvalid", "yvalid"),
    "test": ("test", "testing", "testset", "t10k", "xtest", "ytest"),
}
_MEANING = {word: part for part, words in _WORDS.items() for word in words}
_WORD = re.compile(r"(?<![A-Za-z0-9])[Tt]10[Kk](?![A-Za-z0-9])|[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NUM_LISTED = 6


def words_in(name: str) -> list[str]:
    """Return the words of a name, in lower case: `valImages_2` has `val` and `images`."""
    return [word.lower() for word in _WORD.findall(name)]


def parts_in(name: str) -> set[Part]:
    """Return the parts of the data that the words of a name mean; more than one where they contradict each other."""
    return {_MEANING[word] for word in words_in(name) if word in _MEANING}


def words_beside_part(name: str) -> set[str]:
    """Return the words of a name but for those that mean a part."""
    return {word for word in words_in(name) if word not in _MEANING}


def part_of(name: str, where: str) -> Part | None:
    """Return the part that a name means, or None if it has none of the words.

    Raises:
        UserError: the name has words of several parts; the line says `where` it was found.
    """
    found = parts_in(name)
    if len(found) > 1:
        raise UserError(f"{where} has {name}, which names several parts ({', '.join(sorted(found))}): rename it")
    return next(iter(found), None)


def settle(told: Mapping[Part | None, _T], where: str, notes: list[str]) -> tuple[dict[Part, _T], _T | None]:
    """Decide the parts of the data by what names say, so that there is one to train on.

    If nothing is called so, what has no word is trained on; or else the only part there is, whatever it is called, as a
    note then tells.

    Args:
        told: the data of each part, by what their names say; under None, data whose names have no word.
        where: where the data are, for messages.
        notes: notes for the user, to which one may be added.

    Returns:
        The data of each part, and those that belong to none.

    Raises:
        UserError: there are several parts, but none to train on.
    """
    parts: dict[Part, _T] = {part: told[part] for part in PARTS if part in told}
    if "train" in parts:
        return parts, told.get(None)
    if None in told:
        return {"train": told[None], **parts}, None
    if len(parts) > 1:
        raise UserError(f"{where} has the parts {listed(parts)}, but none to train on, called train")
    [(part, whole)] = parts.items()
    notes.append(f"{where} has a {part} part alone: it is trained on, but for a share of it")
    return {"train": whole}, None


def listed(names: Iterable[object]) -> str:
    """Write names for a message: the first few, and `…` for others."""
    every = [str(name) for name in names]
    return ", ".join(every[:_NUM_LISTED]) + (", …" if len(every) > _NUM_LISTED else "")
