"""Losses by noise level: means of just those that fell into each interval."""

from __future__ import annotations

import pytest
import torch

from score_sde.sde import VPSDE
from score_sde.training.loss_by_noise import LossByNoise
from score_sde.training.objectives import Losses


def test_means_in_equal_intervals_of_log_snr():
    sde = VPSDE()
    losses = LossByNoise(sde, 1e-3)
    high, low = sde.log_snr(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist()
    middles = low + (torch.arange(8, dtype=torch.float64) + 0.5) * (high - low) / 8
    assert [float(name.removeprefix("loss_at_log_snr/")) for name in losses.names] == pytest.approx(
        middles.tolist(), abs=0.05
    )
    # Three losses in interval 1, one at each end, in two batches; none elsewhere.
    width = (high - low) / 8
    places = torch.tensor([low, middles[1] - 0.4 * width, middles[1], middles[1] + 0.4 * width, high])
    times = sde.time_at_log_snr(places.double())
    values = torch.tensor([5.0, 1.0, 2.0, 6.0, 7.0])
    for rows in (slice(0, 3), slice(3, 5)):
        losses.add(Losses(values[rows], times[rows]))
    expected = {losses.names[0]: 5.0, losses.names[1]: 3.0, losses.names[7]: 7.0}
    assert losses.take() == pytest.approx(expected)
    # Taken, they are gone.
    assert losses.take() == {}
