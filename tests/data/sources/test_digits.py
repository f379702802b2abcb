"""The split of the digits, and of its training part, to the last example."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data import load_dataset
from score_sde.data.sources.digits import load_digits


def fingerprint(examples: Tensor) -> str:
    return hashlib.sha256(examples.contiguous().numpy().tobytes()).hexdigest()[:16]


def rows(examples: Tensor) -> list[bytes]:
    return sorted(example.numpy().tobytes() for example in examples)


def test_the_split_is_fixed() -> None:
    dataset = load_dataset("digits")
    assert dataset.train.shape == (1437, 1, 8, 8)
    assert dataset.test.shape == (360, 1, 8, 8)
    assert len(dataset.validation) == 0
    assert (dataset.levels, dataset.train.dtype, dataset.is_image) == (17, torch.uint8, True)
    assert (dataset.train.min(), dataset.train.max()) == (0, 16)
    assert fingerprint(dataset.train) == "5760f944f9d45833"
    assert fingerprint(dataset.test) == "3cc232bd25364446"


def test_every_class_has_its_share() -> None:
    classes = load_digits().classes
    assert classes is not None
    assert torch.bincount(classes).tolist() == [142, 146, 142, 146, 145, 145, 145, 143, 139, 144]


def test_validation_is_a_stratified_part_of_training() -> None:
    whole, split = load_dataset("digits"), load_dataset("digits", validation=160)
    assert (len(split.train), len(split.validation)) == (1277, 160)
    assert rows(torch.cat([split.train, split.validation])) == rows(whole.train)
    assert fingerprint(split.test) == fingerprint(whole.test)
    assert rows(load_dataset("digits", validation=160, fold=1).validation) != rows(split.validation)
    parts = load_digits()
    assert parts.classes is not None
    class_of = {row.numpy().tobytes(): label for row, label in zip(parts.train, parts.classes.tolist(), strict=True)}
    counts = torch.bincount(torch.tensor([class_of[row] for row in rows(split.validation)]))
    shares = torch.bincount(parts.classes) * 160 / 1437
    assert (counts - shares).abs().max() < 1


def test_too_much_validation_is_explained() -> None:
    with pytest.raises(UserError, match=r"cannot take validation=1437 of 1437"):
        load_dataset("digits", validation=1437)


def test_unknown_data_are_explained() -> None:
    with pytest.raises(UserError, match=r"no dataset is called 'digit' \(did you mean 'digits'"):
        load_dataset("digit")
