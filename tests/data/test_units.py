"""Levels, bins and units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Bins, Dataset, Points, load_dataset
from score_sde.data.dataset import described
from score_sde.data.units import moments, units_of


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
    assert dataset.quantised.bins.log_scale((3, 2)) == pytest.approx(6 * math.log(width), rel=1e-15)
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


@pytest.mark.parametrize(
    ("shape", "kind", "axes"),
    [
        ((5,), "vectors", (0,)),
        ((5, 3), "series", (0, 2)),
        ((5, 3, 2), "fields", (0, 2, 3)),
        ((5, 3, 2, 4), "volumes", (0, 2, 3, 4)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_has_no_levels_is_standardised(shape, kind, axes, dtype) -> None:
    """Per column or channel: mean 0, deviation 1; and back again, whatever the place and scale."""
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([0.0, 5000.0, 7.0, -1.0, 1000.0], dtype=dtype).reshape(5, *(1,) * (len(shape) - 1))
    scales = torch.tensor([1.0, 700.0, 0.001, 1e-6, 1e4], dtype=dtype).reshape(places.shape)
    scales[3] = 1e-6 if dtype == torch.float64 else 1e-3
    y = places + scales * torch.randn(100, *shape, dtype=dtype, generator=generator)
    units = units_of(y, None)
    dataset = Dataset("numbers", y, y, units)
    assert (dataset.kind, dataset.levels, dataset.is_image, units.spacing) == (kind, None, kind == "images", 1.0)
    x = dataset.encode(y, seed=0)
    assert x.dtype == torch.float32
    exact = y.double().numpy()
    mean, std = exact.mean(axes), exact.std(axes)
    expected = (exact - mean.reshape(places.shape)) / std.reshape(places.shape)
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-6, atol=1e-6)
    back = units.decode(x)
    assert back.dtype == dtype
    assert ((back - y).abs() / scales).max() < (2e-6 if dtype == torch.float64 else 1e-3)
    assert units.log_scale(shape) == pytest.approx(-np.log(std).sum() * np.prod(shape[1:]), rel=1e-9)
    moments = units.moments(y)
    np.testing.assert_allclose(moments[0], expected.mean(0), rtol=0, atol=1e-8)
    np.testing.assert_allclose(moments[1], expected.var(0), rtol=1e-8)
    known = described({**dataset.description}, -1.0, 1.0, True)
    assert torch.equal(known.units.encode(y), x)
    assert (known.train.dtype, known.shape) == (dtype, shape)


def test_numbers_beyond_what_float32_tells_apart_are_standardised_first() -> None:
    y = 1.7e9 + torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    units = units_of(y, None)
    torch.testing.assert_close(units.encode(y)[:, 0], torch.linspace(-1, 1, 101) * (3 * 50 / 51) ** 0.5)
    torch.testing.assert_close(units.decode(units.encode(y)), y, rtol=0, atol=2e-7)


def test_examples_are_looked_at_in_parts(monkeypatch) -> None:
    y = torch.randn(101, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, variance = moments(y)
    monkeypatch.setattr("score_sde.data.units._AT_ONCE", 30)
    torch.testing.assert_close(moments(y), (mean, variance), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close((mean, variance), (y.mean(0), y.var(0, correction=0)))


def test_what_does_not_vary_is_named() -> None:
    y = torch.randn(10, 3, 4)
    y[:, 1] = 2.5
    with pytest.raises(UserError, match=r"channel 1 is 2\.5 in every example"):
        units_of(y, None)
    with pytest.raises(UserError, match=r"column 1 is 2\.5 in every example"):
        units_of(y[..., 0], None)


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
