"""Averages that were not kept, from those that were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.models import EMA
from score_sde.training import checkpoint
from score_sde.training.reconstruct import coefficients, profile, reconstruct, stretches

STEPS = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random walks of a network's weights, checkpoints of two averages every 50 steps, and a third average directly."""
    folder = tmp_path_factory.mktemp("run")
    model = nn.Linear(20, 20, dtype=torch.float64)
    averages = {decay: EMA(model, decay) for decay in (0.95, 0.995, 0.98)}
    generator = torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for average in averages.values():
            average.update(model)
        if step % 50 == 0:
            state = {
                "config": {"training": {"ema_decay": 0.95}},
                "step": step,
                "ema": averages[0.95].model.state_dict(),
                "more_ema": {0.995: averages[0.995].model.state_dict()},
                "ema_updates": step,
            }
            checkpoint.save(state, checkpoint.path_at(folder / "checkpoints", step))
    return folder, averages


def test_profiles_are_those_of_the_average():
    """Updates with the unit vectors leave the profile."""
    model = nn.Linear(1, 30, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    average = EMA(model, 0.7)
    for update in range(30):
        with torch.no_grad():
            model.weight.zero_()
            model.weight[update] = 1.0
        average.update(model)
    found = profile(0.7, 30, np.arange(31))
    np.testing.assert_allclose(found[1:], average.model.weight.detach()[:, 0], rtol=1e-12)
    assert found.sum() == pytest.approx(1)
    # Of an earlier average nothing comes from later steps; in stretches, sums.
    np.testing.assert_allclose(profile(0.7, 10, np.arange(31))[11:], 0, atol=0)
    np.testing.assert_allclose(profile(0.7, 30, np.array([0, 10, 30]))[1:], [found[1:11].sum(), found[11:].sum()])


def test_what_was_kept_is_found_exactly():
    combination, distance = coefficients([(0.9, 50), (0.99, 100), (0.9, 100)], (0.99, 100))
    np.testing.assert_allclose(combination, [0, 1, 0], atol=1e-9)
    assert distance < 1e-9
    assert stretches(10**6)[-1] == 10**6


def test_an_average_that_was_not_kept(folder):
    """Its error on a random walk is a small part of its distance from either average that was kept."""
    where, averages = folder
    path, distance = reconstruct(where, 0.98)
    assert distance < 0.1
    found, config, _ = checkpoint.load_weights_file(path)
    assert config == {"training": {"ema_decay": 0.95}}

    def error(weights) -> float:
        wanted = averages[0.98].model.state_dict()
        return float(sum((weights[name] - wanted[name]).square().sum() for name in wanted)) ** 0.5

    assert error(found) < 0.1 * min(error(averages[decay].model.state_dict()) for decay in (0.95, 0.995))


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        reconstruct(tmp_path, 0.9)
    with pytest.raises(UserError, match="between 0 and 1"):
        reconstruct(tmp_path, 1.0)
