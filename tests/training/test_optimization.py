"""The learning rate in closed form, and the optimisers' kinds of weight decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.configs.default import get_config
from score_sde.training.optimization import learning_rate, make_optimizer


def settings(**values):
    config = get_config().training
    config.update(learning_rate=0.1, warmup_steps=10, num_steps=100, **values)
    return config


def test_the_rate_rises_linearly_then_falls_as_a_cosine():
    config = settings(schedule="cosine")
    for step in (0, 3, 9, 10, 50, 99):
        expected = 0.1 * min(1, (step + 1) / 10) * math.cos(math.pi * step / 200) ** 2
        assert learning_rate(step, config) == pytest.approx(expected, rel=1e-12)


def test_a_constant_rate_stays():
    config = settings(schedule="constant")
    assert [learning_rate(step, config) for step in (0, 4, 10, 99, 1000)] == pytest.approx([0.01, 0.05, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(("name", "expected"), [("adam", 1 - 0.1), ("adamw", 1 - 0.1 * 0.5)])
def test_weight_decay(name, expected):
    # With gradient 0, Adam takes a full step along the sign of the decay; AdamW shrinks the weight by lr * decay.
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([weight], settings(optimizer=name, weight_decay=0.5))
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(expected, rel=1e-6)


def test_unknown_names_are_user_errors():
    with pytest.raises(UserError, match="did you mean 'adam'"):
        make_optimizer([nn.Parameter(torch.ones(1))], settings(optimizer="adan"))
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        learning_rate(0, settings(schedule="cosin"))
