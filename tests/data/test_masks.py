"""Random masks, and batches of which they hide parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from score_sde.common.noise import BatchNoise
from score_sde.data import Batches, load_dataset
from score_sde.data.masks import MASKS, random_masks

COUNT = 400


def drawn(kind: str, *sizes: int) -> torch.Tensor:
    """Return whether places of examples are hidden, `(COUNT, *sizes)`, bool."""
    noise = BatchNoise(COUNT, torch.Generator().manual_seed(0))
    hidden = random_masks(torch.empty(COUNT, 3, *sizes), noise, [kind])
    assert hidden.shape == (COUNT, 1, *sizes)
    return hidden[:, 0]


def test_halves_are_beginnings_and_ends_along_each_axis_alike() -> None:
    hidden = drawn("half", 6, 4)
    assert (hidden.flatten(1).sum(1) == 12).all()
    kinds = torch.stack([hidden[:, :3].all((1, 2)), hidden[:, 3:].all((1, 2)), hidden[:, :, :2].all((1, 2))], 1)
    shares = kinds.double().mean(0)
    # A quarter each, within four standard errors.
    assert (shares - 0.25).abs().max() < 4 * (0.25 * 0.75 / COUNT) ** 0.5


def test_boxes_are_boxes_of_a_quarter_of_the_size_or_more() -> None:
    hidden = drawn("box", 16, 12).numpy()
    lengths = []
    for mask in hidden:
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert mask.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        lengths.append(((rows[-1] - rows[0] + 1) / 16, (columns[-1] - columns[0] + 1) / 12))
    assert np.min(lengths) >= 0.25 - 1 / 12
    np.testing.assert_allclose(np.mean(lengths, 0), 0.625, atol=4 * 0.22 / COUNT**0.5)


def test_strokes_are_what_lies_near_three_lines() -> None:
    """As measured from points along the lines, one after the other, but for places at a stroke's very edge."""
    hidden = drawn("stroke", 8, 8)
    noise = BatchNoise(COUNT, torch.Generator().manual_seed(0))
    noise.uniform(torch.empty(COUNT, 8, 8))
    noise.uniform(torch.empty(COUNT))
    ends, radii = noise.uniform(torch.empty(COUNT, 3, 2, 2)), 0.05 + 0.15 * noise.uniform(torch.empty(COUNT, 3))
    here = (torch.arange(8) + 0.5) / 8
    places = torch.stack(torch.meshgrid(here, here, indexing="ij"), -1).reshape(64, 2)
    along = torch.linspace(0, 1, 400)[:, None]
    for example in range(20):
        near, edge = torch.zeros(64, dtype=torch.bool), torch.zeros(64, dtype=torch.bool)
        for (first, last), radius in zip(ends[example], radii[example], strict=True):
            away = torch.cdist(places, first + along * (last - first)).amin(1)
            near |= away <= radius
            edge |= (away - radius).abs() < 2e-3
        if near.any():
            assert torch.equal(hidden[example].flatten()[~edge], near[~edge])


def test_shares_of_pixels_are_uniform_and_all_is_all() -> None:
    shares = drawn("pixels", 16, 16).double().mean((1, 2))
    expected = (torch.arange(COUNT) + 0.5) / COUNT
    # The largest distance of an empirical distribution from its own (Kolmogorov), at a level of 1e-4.
    assert (shares.sort().values - expected).abs().max() < 2.2 / COUNT**0.5
    assert drawn("all", 5).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1,), (2, 3), (1, 2, 2, 2)])
def test_something_is_always_hidden(shape: tuple[int, ...]) -> None:
    noise = BatchNoise(COUNT, torch.Generator().manual_seed(0))
    hidden = random_masks(torch.empty(COUNT, *shape), noise, list(MASKS)).expand(COUNT, *shape)
    assert hidden.flatten(1).any(1).all()


def test_batches_hide_parts_and_can_be_resumed() -> None:
    dataset = load_dataset("digits")
    options: dict[str, Any] = {"batch_size": 12, "seed": 3, "distortion": 0.5, "masks": ("half", "stroke", "all")}
    batches = Batches(dataset, **options)
    first = [next(batches) for _ in range(3)]
    again = Batches(dataset, **options)
    again.step = 2
    batch = next(again)
    assert batch.condition is not None
    assert batch.modelled is not None
    assert first[2].condition is not None
    assert torch.equal(batch.x_0, first[2].x_0)
    assert torch.equal(batch.condition.values["part"], first[2].condition.values["part"])
    # Two processes see the rows of one.
    halves = [Batches(dataset, **options, rows=rows) for rows in (slice(0, 6), slice(6, 12))]
    for half in halves:
        half.step = 2
    told = [next(half).condition for half in halves]
    assert torch.equal(
        torch.cat([condition.values["part"] for condition in told if condition]), batch.condition.values["part"]
    )
    # The network is told the middles of known levels, and neither the state nor the loss has them.
    values, given, absent = batch.condition.values["part"].split(1, 1)
    known = given.bool()
    assert not absent.any()
    assert torch.equal(known, ~batch.modelled)
    assert not batch.x_0[known].any()
    assert not values[~known].any()
    levels = (values[known] + 1) * 17 / 2 - 0.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    # What is hidden is as it is without masks.
    plain = Batches(dataset, **{**options, "masks": ()})
    plain.step = 2
    assert torch.equal(batch.x_0, torch.where(known, 0, next(plain).x_0))
    assert torch.equal(batch.condition.hidden_rows["part"], batch.modelled.flatten(1).all(1))
