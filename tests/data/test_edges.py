"""Edges of pictures whose gradients are known."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Dataset
from score_sde.data.dataset import described
from score_sde.data.edges import edges_of, with_edges
from score_sde.data.units import units_of


def test_a_sharp_edge_is_two_pixels_wide():
    picture = torch.zeros(1, 1, 5, 6, dtype=torch.uint8)
    picture[..., 3:] = 255
    wanted = torch.tensor([0, 0, 1, 1, 0, 0], dtype=torch.uint8).expand(5, 6)
    assert torch.equal(edges_of(picture, 256, 0.49)[0, 0], wanted)
    assert not edges_of(picture, 256, 0.51).any()
    assert torch.equal(edges_of(picture.mT.contiguous(), 256, 0.49)[0, 0], wanted.mT)


def test_a_slope_is_an_edge_where_it_is_steep_whatever_its_direction():
    """With `b = (3 i + 4 j) / 100` the gradient is 0.05 everywhere within; levels are 101, of three equal channels."""
    i, j = torch.meshgrid(torch.arange(8), torch.arange(9), indexing="ij")
    picture = (3 * i + 4 * j).to(torch.uint8).expand(2, 3, 8, 9)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert edges_of(picture, 101, 0.0499)[inside].all()
    assert not edges_of(picture, 101, 0.0501).any()


def test_edges_are_a_condition_told_as_they_are():
    picture = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    picture[1, :, 2:] = 9
    data = Dataset("pictures", picture, picture[1:], units_of(picture, 10, -1.0, 1.0, True))
    data = with_edges(data, 0.15)
    condition = data.condition_of("train")
    assert condition is not None
    lines = torch.tensor([0.0, 1.0, 1.0, 0.0])[:, None].expand(4, 4)
    assert torch.equal(condition.values["edges"], torch.stack([torch.zeros(4, 4), lines])[:, None])
    assert data.conditions["validation"]["edges"].shape == (0, 1, 4, 4)
    assert described(data.description, -1.0, 1.0, True).condition_units["edges"].shape == (1, 4, 4)
    with pytest.raises(UserError, match="edges are of pictures, and points has vectors"):
        with_edges(Dataset("points", torch.zeros(3, 2), torch.zeros(1, 2)), 0.15)
