"""The width under which levels are likeliest, against scipy's logistic distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from score_sde.models.decoded import likeliest_width

LEVELS, PLACE, SPACING, WIDTH = 32, -1.0, 2 / 31, 0.08


def test_the_likeliest_width_is_that_of_a_second_implementation() -> None:
    """Probabilities are differences of distribution functions, open beyond the first and the last level."""
    random = np.random.default_rng(0)
    mean = random.uniform(-1.2, 1.2, (100, 1, 200))
    drawn = np.round((mean + random.logistic(0, WIDTH, mean.shape) - PLACE) / SPACING).clip(0, LEVELS - 1)

    def cost(log_width: float) -> float:
        ends = np.concatenate([[-np.inf], PLACE + SPACING * (np.arange(1, LEVELS) - 0.5), [np.inf]])
        upper, lower = (stats.logistic.cdf(ends[drawn.astype(int) + one], mean, np.exp(log_width)) for one in (1, 0))
        return -float(np.log(upper - lower).mean())

    expected = np.exp(optimize.minimize_scalar(cost, bounds=(-3.5, -1), method="bounded").x)
    x = torch.from_numpy(PLACE + SPACING * drawn)
    found = likeliest_width(x, torch.from_numpy(mean), LEVELS, PLACE, SPACING)
    assert found == pytest.approx(expected, rel=2e-4)
    assert found == pytest.approx(WIDTH, rel=0.02)


def test_of_what_is_decoded_exactly_the_width_is_the_least_there_is() -> None:
    x = PLACE + SPACING * torch.arange(LEVELS, dtype=torch.float64).reshape(1, 1, -1)
    assert likeliest_width(x, x, LEVELS, PLACE, SPACING) < 0.05 * SPACING
