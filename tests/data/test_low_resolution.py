"""Pictures that are conditioned on themselves: means over areas, in the units of points."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.data import Batches, Bins, Dataset
from score_sde.data.dataset import described
from score_sde.data.low_resolution import NOISE, shrunk, with_low_resolution, with_noise

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
    with pytest.raises(UserError, match="pictures can be made smaller, and points has vectors"):
        with_low_resolution(Dataset("points", torch.zeros(3, 2), torch.zeros(1, 2)), 3)


# Pictures of level 100 are told as 1, whatever their size.
WHITE = Dataset("white", torch.full((4000, 1, 4, 4), 100, dtype=torch.uint8), PICTURES[:, :1, :, :4], Bins(101))
MOST = 0.6


def test_shrunk_pictures_are_the_small_ones_that_are_told_in_whole_levels() -> None:
    small, told = shrunk(DATA, 2), with_low_resolution(DATA, 2)
    assert small.shape == (2, 2, 4)
    assert torch.equal(small.train.float(), told.conditions["train"]["low_resolution"].round())
    assert small.test.dtype == torch.uint8
    with pytest.raises(UserError, match="cannot be made 3 high evenly"):
        shrunk(DATA, 3)


def test_noise_in_training_is_of_a_uniform_deviation_which_is_told_and_never_hidden() -> None:
    """`U(c_s) = sqrt(1 - s^2) c + s U(n)` of constant `c = 1`: what `U` makes of `n` has the covariance `U U^T`."""
    data = with_low_resolution(WHITE, 2, noise=MOST)
    names = tuple(data.condition_units)
    batches = Batches(data, 4000, 0, names=names, label_dropout=1.0, always=names, low_resolution_noise=MOST)
    condition = next(batches).condition
    assert condition is not None
    assert not condition.hidden_rows
    told = condition.values[NOISE].double()
    std = MOST * (0.5 + told / 12**0.5)
    for value, moment, variance in ((told, 0.0, 1.0), (told**2, 1.0, 0.8), (told**4, 1.8, 9.0 - 1.8**2)):
        assert abs(value.mean() - moment) < 4 * (variance / 4000) ** 0.5
    assert 0 < std.min() < std.max() < MOST
    seen = condition.values["low_resolution"].double().flatten(1)
    drawn = (seen - (1 - std**2).sqrt()) / std
    along = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]], dtype=torch.float64)
    up = torch.kron(along, along)
    assert ((drawn.T @ drawn / 4000 - up @ up.T).abs() < 5 * (2 / 4000) ** 0.5).all()
    # It does not depend on how much noise there is.
    assert (torch.corrcoef(torch.cat([std, drawn.abs()], 1).T)[0, 1:].abs() < 4 / 4000**0.5).all()


def test_batches_with_noise_go_on_from_a_step_and_are_shared_by_rows() -> None:
    data = with_low_resolution(WHITE, 2, noise=MOST)
    options: dict[str, Any] = {
        "seed": 3,
        "names": tuple(data.condition_units),
        "low_resolution_noise": MOST,
        "label_dropout": 0.3,
    }
    whole, part = Batches(data, 10, **options), Batches(data, 10, **options, rows=slice(1, None, 2))
    next(whole)
    part.step = whole.step
    ours, theirs = next(part).condition, next(whole).condition
    assert ours is not None
    assert theirs is not None
    for name, value in theirs.values.items():
        assert torch.equal(ours.values[name], value[1::2])


def test_the_noise_of_a_sample_is_that_of_its_seed() -> None:
    data = with_low_resolution(DATA, 2, noise=MOST)
    condition = data.condition_of("train")
    assert condition is not None
    assert torch.allclose(condition.values[NOISE], torch.tensor(-(3**0.5)))
    three = condition[torch.zeros(3, dtype=torch.long)]
    std = torch.full((3,), 0.3)
    noisy = with_noise(three, data, std, SampleNoise([4, 5, 6], "low_resolution")).values["low_resolution"]
    alone = with_noise(condition, data, std[:1], SampleNoise([5], "low_resolution")).values["low_resolution"]
    assert torch.equal(noisy[1:2], alone)
    assert not torch.equal(noisy[0], noisy[1])
