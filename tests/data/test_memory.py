"""A run remembers its data: what has changed since is counted exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Bins, Dataset
from score_sde.data.memory import changes, check_conditions, memory_of, overlap, recall, remember


def dataset(train: list[int], test: list[int], classes: list[int] | None = None) -> Dataset:
    """Pictures of one pixel."""

    def pictures(levels: list[int]) -> torch.Tensor:
        return torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1)

    of_train = None if classes is None else torch.tensor(classes)
    return Dataset(
        "pixels", pictures(train), pictures(test), Bins(256), validation=pictures([]), train_classes=of_train
    )


def test_what_was_added_what_is_gone_and_what_was_trained_on(tmp_path):
    path = tmp_path / "data.npz"
    assert recall(path) is None
    first = memory_of(dataset([1, 2, 3, 4], [10, 11]))
    assert overlap(first) == []
    remember(first, path)
    before = recall(path)
    assert before is not None
    # In another order it is the same.
    assert changes(memory_of(dataset([4, 3, 2, 1], [11, 10])), before) == []
    second = memory_of(dataset([1, 2, 5, 6, 7], [10, 3, 4]))
    assert changes(second, before) == [
        "the train part has changed: 4 examples before, 5 now; 3 are new, 2 are gone",
        "the test part has changed: 2 examples before, 3 now; 2 are new, 1 are gone",
    ]
    [line] = overlap(second, before)
    assert line.startswith("2 of 3 test examples have been trained on")
    # What was trained on once stays so.
    remember(second, path, before)
    third = memory_of(dataset([7], [3, 5, 20]))
    assert overlap(third) == []
    [line] = overlap(third, recall(path))
    assert line.startswith("2 of 3 test examples have been trained on")


def test_copies_of_what_was_there_are_counted():
    """They weigh as much in training as other examples."""
    first, second = memory_of(dataset([1, 2, 2], [10])), memory_of(dataset([1, 1, 1, 2], [10, 10]))
    assert changes(second, first) == [
        "the train part has changed: 3 examples before, 4 now; 2 are new, 1 are gone",
        "the test part has changed: 1 examples before, 2 now; 1 are new, 0 are gone",
    ]


def test_another_class_is_a_change():
    first, second = memory_of(dataset([1, 2, 3], [], [0, 1, 1])), memory_of(dataset([1, 2, 3], [], [0, 1, 0]))
    assert changes(second, first) == ["1 examples of the train part have another class than before"]


def conditioned(train: list[int], told: list[float], test: list[int], told_of_test: list[float]) -> Dataset:
    """Pictures of one pixel, each with a number."""
    arrays = {"train": told, "test": told_of_test}
    conditions: Any = {part: {"c": torch.tensor(values)[:, None]} for part, values in arrays.items()}
    return replace(dataset(train, test), conditions=conditions)


def test_another_condition_of_what_was_trained_on_is_refused(tmp_path):
    first = memory_of(conditioned([1, 2, 3, 3], [0.1, 0.2, 0.3, 0.4], [10], [1.0]))
    remember(first, tmp_path / "data.npz")
    before = recall(tmp_path / "data.npz")
    assert before is not None
    # Another order, more copies and more examples are no other conditions, and neither is what an older run knows not.
    for more in (
        conditioned([3, 3, 2, 1], [0.4, 0.3, 0.2, 0.1], [10], [1.0]),
        conditioned([1, 2, 3, 3, 3, 4], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [10], [1.0]),
    ):
        check_conditions(memory_of(more), before)
    other = memory_of(conditioned([1, 2, 3, 3], [0.1, 0.25, 0.3, 0.5], [10], [2.0]))
    with pytest.raises(UserError, match=r"^2 of 4 training examples have another condition .*another --workdir$"):
        check_conditions(other, before)
    assert changes(other, before) == [
        "2 examples of the train part have another condition than before",
        "1 examples of the test part have another condition than before",
    ]
    older = {name: array for name, array in before.items() if not name.endswith("conditions")}
    check_conditions(other, older)
    assert changes(other, older) == []


def test_a_damaged_memory_is_named(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"cannot read .*data\.npz: remove it"):
        recall(tmp_path / "data.npz")
