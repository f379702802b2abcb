"""CRPS against its integral and closed forms, and spread against skill where it is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from score_sde.common.errors import UserError
from score_sde.evaluation.samples.ensembles import crps, spread_skill


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_small_ensembles_by_hand():
    """{0, 1, 3}: mean |x - 2| = 4/3, and pairs are 1, 2, 3 apart, on average 2, of which half is taken off."""
    ensemble = torch.tensor([3.0, 0.0, 1.0])[:, None]
    assert crps(ensemble, torch.tensor([2.0])).item() == pytest.approx(4 / 3 - 1, abs=1e-15)
    # Two samples about the truth: 1 - 2/2.
    assert crps(torch.tensor([[1.0], [-1.0]]), torch.tensor([0.0])).item() == 0
    arrays: Any = np.array([[4], [4]], np.uint8), np.array([7], np.uint8)
    assert crps(*arrays).item() == 3


def test_it_is_the_double_sum_of_each_number_wherever_it_lies():
    x, y = 1e6 + normal(7, 5, 2, 3, seed=0), 1e6 + normal(5, 2, 3, seed=1)
    pairs = (x[:, None] - x[None, :]).abs().sum((0, 1))
    torch.testing.assert_close(crps(x, y), (x - y).abs().mean(0) - pairs / (2 * 7 * 6), rtol=0, atol=1e-9)


def test_it_is_that_of_a_gaussian_for_ensembles_of_any_size():
    """Of N(m, s^2) it is s (z (2 Phi(z) - 1) + 2 phi(z) - pi^{-1/2}), z = (y - m) / s; fair, so for M = 2, too."""
    mean, std, y = 0.7, 2.0, 1.9
    z = (y - mean) / std
    exact = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))
    for count, repeats in ((2, 100_000), (100_000, 2)):
        found = crps(mean + std * normal(count, repeats, seed=2), torch.full((repeats,), y))
        assert found.mean().item() == pytest.approx(exact, abs=4 * std / math.sqrt(200_000))


def test_a_reliable_ensemble_has_ratio_1_and_one_of_half_the_spread_not():
    """Truth and samples are draws of N(m_n, 1); with the spread halved, spread is 1/2, skill (1 + 1/(4 M))^{1/2}."""
    place, count = 10 * normal(100_000, seed=3), 4
    draws, truth = normal(count, 100_000, seed=4), place + normal(100_000, seed=5)
    found = spread_skill(place + draws, truth)
    assert found.spread == pytest.approx(1, abs=0.01)
    assert found.skill == pytest.approx(math.sqrt(1.25), abs=0.01)
    assert found.ratio == pytest.approx(1, abs=0.01)
    half = spread_skill(place + draws / 2, truth)
    assert half.ratio == pytest.approx(math.sqrt(1.25) / 2 / math.sqrt(1 + 1 / 16), abs=0.01)


@pytest.mark.parametrize(
    ("ensemble", "truth", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(3), "two or more"),
        (torch.zeros(4, 3), torch.zeros(3, 1), r"not \(4, 3\) for \(3, 1\)"),
        (torch.zeros(4, 1), torch.tensor([math.nan]), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(ensemble: torch.Tensor, truth: torch.Tensor, message: str):
    for function in (crps, spread_skill):
        with pytest.raises(UserError, match=message):
            function(ensemble, truth)
