"""Levels, bins and units."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Bins, Dataset, Points, load_dataset


def make_dataset(levels: int, low: float, high: float) -> Dataset:
    examples = torch.arange(levels).to(torch.uint8).reshape(-1, 1, 1, 1)
    return Dataset("levels", examples, examples, Bins(levels, low, high))


@pytest.mark.parametrize(("levels", "low", "high"), [(17, -1.0, 1.0), (256, -1.0, 1.0), (256, 0.0, 1.0)])
def test_bins(levels: int, low: float, high: float) -> None:
    """Level k is the bin [low + k w, low + (k + 1) w), and all of [low, high) is used."""
    dataset = make_dataset(levels, low, high)
    width = (high - low) / levels
    assert dataset.units.spacing == pytest.approx(width, rel=1e-15)
    edges = torch.linspace(low, high, levels + 1, dtype=torch.float64)
    middles = dataset.units.encode(torch.arange(levels, dtype=torch.float64))
    torch.testing.assert_close(middles, (edges[1:] + edges[:-1]) / 2, rtol=0, atol=1e-15)
    assert dataset.quantised.place == pytest.approx(middles[0].item(), abs=1e-15)
    assert dataset.quantised.bins.log_scale == pytest.approx(math.log(width), rel=1e-15)
    inside = edges[:-1, None] + width * torch.tensor([1e-9, 0.5, 1 - 1e-9], dtype=torch.float64)
    assert torch.equal(dataset.units.decode(inside), dataset.train.flatten()[:, None].expand(-1, 3))
    beyond = torch.tensor([low - 3, high, high + 3], dtype=torch.float64)
    assert dataset.units.decode(beyond).tolist() == [0, levels - 1, levels - 1]


def test_dequantised_levels_fill_their_bins_evenly() -> None:
    dataset = make_dataset(17, -1.0, 1.0)
    examples = torch.full((40_000, 1), 5, dtype=torch.uint8)
    x = dataset.encode(examples, seed=0)
    assert torch.equal(dataset.units.decode(x), examples)
    place = (x + 1) * 17 / 2 - 5
    counts = torch.histc(place, bins=10, min=0, max=1)
    # Pearson's statistic has mean 9 and standard deviation sqrt(18).
    assert ((counts - 4000) ** 2 / 4000).sum() < 9 + 4 * 18**0.5


def test_pictures_use_all_of_uint8() -> None:
    dataset = make_dataset(17, -1.0, 1.0)
    x = torch.tensor([[[[-1.5, -0.99], [0.0, 0.99]]] * 3])
    grey = dataset.to_uint8(x)
    # Level 8 of 0 … 16 is the middle: 127.5, which rounds to the even 128.
    assert grey.tolist() == [[[[0] * 3, [0] * 3], [[128] * 3, [255] * 3]]]
    bytes_ = make_dataset(256, 0.0, 1.0)
    assert torch.equal(bytes_.levels_to_uint8(bytes_.train).flatten(), bytes_.train.flatten())


def test_moments_include_the_dequantisation() -> None:
    dataset = load_dataset("digits")
    mean, variance = dataset.units.moments(dataset.train)
    draws = torch.cat([dataset.encode(dataset.train, seed) for seed in range(100)]).double()
    count = len(draws)
    error = (draws.mean(0) - mean) / (variance / count).sqrt()
    assert error.abs().max() < 4
    # Levels are used equally often, so the error comes from the noise u alone: 2 cov(k, u) + (var u - 1/12).
    noise = dataset.units.spacing**2 / 12
    standard_error = ((4 * (variance - noise) * noise + 0.8 * noise**2) / count).sqrt()
    assert ((draws.var(0, correction=0) - variance).abs() / standard_error).max() < 4


def test_vectors_are_their_own_units() -> None:
    dataset = load_dataset("two_moons")
    assert (dataset.levels, dataset.units.spacing, dataset.is_image, dataset.shape) == (None, 1.0, False, (2,))
    x = dataset.train[:5]
    assert torch.equal(dataset.encode(x, seed=0), x)
    assert torch.equal(dataset.units.decode(x), x)
    mean, variance = dataset.units.moments(dataset.train)
    torch.testing.assert_close(mean, dataset.train.double().mean(0))
    torch.testing.assert_close(variance, dataset.train.double().var(0, correction=0))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)])
def test_levels_without_noise_span_the_range(low: float, high: float) -> None:
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    points = Points(256, low, high)
    x = points.encode(levels)
    torch.testing.assert_close(x, low + (high - low) * torch.tensor([0, 0.2, 1]))
    assert (points.place, points.bins) == (low, Bins(256, low, high))
    mean, variance = points.moments(levels[:, None])
    torch.testing.assert_close(mean, x.double().mean(0, keepdim=True))
    torch.testing.assert_close(variance, x.double().var(0, correction=0, keepdim=True), rtol=1e-6, atol=0)


def test_units_that_cannot_be() -> None:
    for units, values in ((Bins, (1,)), (Points, (256, 1.0, -1.0)), (Bins, (256, 0.0, 0.0))):
        with pytest.raises(UserError, match="two or more, and low below high"):
            units(*values)
