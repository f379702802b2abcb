"""Conditions: rows of named values, some of them hidden."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError

CONDITION = Condition({"class": torch.tensor([3, 1, 4, 1]), "vector": torch.arange(8.0).reshape(4, 2)})


def test_rows_are_rows_of_everything():
    hidden = CONDITION.hidden("class", torch.tensor([True, False, False, True]))
    for rows, expected in ((slice(None, None, 2), [0, 2]), (torch.tensor([3, 3, 0]), [3, 3, 0]), (slice(2), [0, 1])):
        part = hidden[rows]
        assert len(part) == len(expected)
        assert part.values["class"].tolist() == [[3, 1, 4, 1][row] for row in expected]
        assert part.values["vector"].tolist() == [[2.0 * row, 2.0 * row + 1] for row in expected]
        assert part.hidden_rows["class"].tolist() == [row in (0, 3) for row in expected]
        assert set(part.hidden_rows) == {"class"}


def test_what_is_hidden_stays_hidden_and_nothing_else_changes():
    once = CONDITION.hidden("class", torch.tensor([True, False, False, False]))
    twice = once.hidden("class", torch.tensor([False, False, True, False]))
    assert twice.hidden_rows["class"].tolist() == [True, False, True, False]
    assert once.hidden_rows["class"].tolist() == [True, False, False, False]
    assert once.hidden("class").hidden_rows["class"].all()
    assert not CONDITION.hidden_rows
    moved = twice.to("cpu")
    assert torch.equal(moved.values["vector"], CONDITION.values["vector"])
    assert torch.equal(moved.hidden_rows["class"], twice.hidden_rows["class"])


def test_mistakes():
    with pytest.raises(UserError, match="as many for each name, not none"):
        Condition({})
    with pytest.raises(UserError, match=r"as many for each name, not .'a': 2, 'b': 3."):
        Condition({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(AttributeError):
        CONDITION.values = {}  # type: ignore[misc]
