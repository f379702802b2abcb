"""Brownian increments for torchsde: their exact law from scripted noise, and one path an example."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from score_sde.common.noise import SampleNoise
from score_sde.solvers.stochastic.brownian import FreshIncrements, StackedIntervals

FLOAT = torch.float64


def test_fresh_increments_have_the_covariance_of_w_and_its_integral(monkeypatch):
    """Over h: Var W = h, Cov(W, U) = h^2 / 2, Var U = h^3 / 3."""
    draws = iter(torch.eye(2, dtype=FLOAT).unbind())
    monkeypatch.setattr(SampleNoise, "normal", lambda self, like: next(draws)[:, None])
    h = 0.7
    brownian = FreshIncrements(torch.zeros(2, 1, dtype=FLOAT), SampleNoise([0, 1], "brownian"))
    W, U = brownian(torch.tensor(1.0), torch.tensor(1.0 + h, dtype=FLOAT), return_U=True)
    coefficients = torch.cat([W, U], dim=1)
    expected = torch.tensor([[h, h**2 / 2], [h**2 / 2, h**3 / 3]], dtype=FLOAT)
    torch.testing.assert_close(coefficients.T @ coefficients, expected)


@pytest.mark.parametrize("space_time", [False, True])
def test_stacked_intervals_are_one_path_an_example(space_time):
    like, times = torch.zeros(3, 4, dtype=FLOAT), [0.0, 0.6, 1.7, 2.0]
    stacked = StackedIntervals(like, SampleNoise([7, 8, 9], "brownian"), 2.0, space_time)
    alone = StackedIntervals(like[1:2], SampleNoise([8], "brownian"), 2.0, space_time)
    whole = stacked(0.0, 2.0)
    assert torch.equal(alone(0.0, 2.0)[0], whole[1])
    parts = [stacked(a, b) for a, b in pairwise(times)]
    for part, (a, b) in zip(parts, pairwise(times), strict=True):
        assert torch.equal(alone(a, b)[0], part[1])
    torch.testing.assert_close(sum(parts), whole)
    assert not torch.allclose(whole[0], whole[1])


def test_stacked_intervals_have_the_covariance_of_w_and_its_integral():
    count, h = 4000, 2.0
    stacked = StackedIntervals(torch.zeros(1, count, dtype=FLOAT), SampleNoise([3], "brownian"), h, space_time=True)
    W, U = stacked(0.0, h, return_U=True)
    sample = torch.cov(torch.cat([W, U]))
    expected = torch.tensor([[h, h**2 / 2], [h**2 / 2, h**3 / 3]], dtype=FLOAT)
    torch.testing.assert_close(sample, expected, rtol=4.5 * (2 / count) ** 0.5, atol=0)
