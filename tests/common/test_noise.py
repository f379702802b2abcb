"""Randomness per sample."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from score_sde.common.noise import SampleNoise, seeds_from_generator
from score_sde.sde import VPSDE


def test_a_sample_depends_on_its_own_seed_alone() -> None:
    like = torch.empty(64, 3, 5, dtype=torch.float64)
    together = SampleNoise(range(64), "solver")
    alone = SampleNoise([17], "solver")
    for _ in range(3):
        assert torch.equal(together.normal(like)[17], alone.normal(like[:1])[0])


def test_uses_of_one_seed_are_uncorrelated() -> None:
    like = torch.empty(4, 5000, dtype=torch.float64)
    prior = VPSDE().prior_sample(like.shape, seeds=range(4), dtype=torch.float64)
    solver = SampleNoise(range(4), "solver").normal(like)
    correlation = float((prior * solver).mean())
    assert abs(correlation) < 4 / 20000**0.5


def test_draws_have_their_distributions() -> None:
    like = torch.empty(20, 1000, dtype=torch.float64)
    noise = SampleNoise(range(20), "probe")
    assert stats.kstest(noise.normal(like).flatten(), "norm").pvalue > 1e-3
    assert stats.kstest(noise.uniform(like).flatten(), "uniform").pvalue > 1e-3
    signs = noise.rademacher(like)
    assert torch.equal(signs.abs(), torch.ones_like(signs))
    assert abs(float(signs.mean())) < 4 / 20000**0.5


def test_seeds_from_a_generator_are_reproducible_and_the_count_is_checked() -> None:
    first = seeds_from_generator(5, torch.Generator().manual_seed(3))
    assert first == seeds_from_generator(5, torch.Generator().manual_seed(3))
    assert len(set(first)) == 5
    with pytest.raises(ValueError, match="4 seeds for a batch of 5"):
        SampleNoise(first[:4], "solver").normal(torch.empty(5, 2))
