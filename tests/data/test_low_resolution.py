"""Pictures that are conditioned on themselves: means over areas, in the units of points."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Bins, Dataset
from score_sde.data.dataset import described
from score_sde.data.low_resolution import with_low_resolution

PICTURES = torch.arange(2 * 4 * 8, dtype=torch.uint8).reshape(1, 2, 4, 8)
DATA = Dataset("ramps", PICTURES, PICTURES.flip(-1), Bins(101))


def test_small_pictures_are_means_over_areas_and_told_from_minus_one_to_one() -> None:
    data = with_low_resolution(DATA, 2)
    means = PICTURES.double().reshape(1, 2, 2, 2, 4, 2).mean((3, 5))
    condition = data.condition_of("train")
    assert condition is not None
    small = 2 * means / 100 - 1
    # Linear interpolation to twice the size, within the picture: 1/4 of one neighbour and 3/4 of the other.
    told = condition.values["low_resolution"]
    assert told.shape == (1, 2, 4, 8)
    along = 0.75 * small[..., :-1] + 0.25 * small[..., 1:]
    expected = 0.75 * along[:, :, 0] + 0.25 * along[:, :, 1]
    torch.testing.assert_close(told[:, :, 1, 1:-1:2].double(), expected)
    test = data.conditions["test"]["low_resolution"]
    torch.testing.assert_close(test.double(), means.flip(-1))
    assert data.conditions["validation"]["low_resolution"].shape == (0, 2, 2, 4)
    # A checkpoint knows all of it.
    units = described(data.description, -1.0, 1.0, True).condition_units["low_resolution"]
    torch.testing.assert_close(units.encode(means.float(), data.shape), told)


def test_of_other_units_and_what_cannot_be_made_smaller() -> None:
    data = with_low_resolution(DATA, 4, low=0.0)
    condition = data.condition_of("train")
    assert condition is not None
    torch.testing.assert_close(condition.values["low_resolution"], PICTURES.float() / 100)
    with pytest.raises(UserError, match="pictures of 4 x 8 cannot be made 3 high evenly"):
        with_low_resolution(DATA, 3)
    with pytest.raises(UserError, match="for pictures, and points has vectors"):
        with_low_resolution(Dataset("points", torch.zeros(3, 2), torch.zeros(1, 2)), 3)
