"""The learning rate in closed form, and the optimisers' kinds of weight decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.configs.default import get_config
from score_sde.experiment.configuration import CONFIGS, load_file
from score_sde.training.optimization import learning_rate, load_optimizer, make_optimizer


def settings(**values):
    config = get_config().training
    config.update(learning_rate=0.1, warmup_steps=10, num_steps=100, **values)
    return config


def test_the_rate_rises_linearly_then_falls_as_a_cosine():
    config = settings(schedule="cosine")
    for step in (0, 3, 9, 10, 50, 99):
        expected = 0.1 * min(1, (step + 1) / 10) * math.cos(math.pi * step / 200) ** 2
        assert learning_rate(step, config) == pytest.approx(expected, rel=1e-12)


def test_a_warm_up_is_at_most_a_tenth_of_the_steps_where_the_rate_falls():
    config = settings(schedule="cosine")
    config.num_steps = 50
    expected = [0.1 * min(1, (step + 1) / 5) * math.cos(math.pi * step / 100) ** 2 for step in range(50)]
    assert [learning_rate(step, config) for step in range(50)] == pytest.approx(expected)
    config.num_steps = 9
    assert learning_rate(0, config) == 0.1
    config.schedule = "constant"
    assert learning_rate(0, config) == pytest.approx(0.01)


def test_no_configuration_of_the_project_asks_for_a_longer_one():
    """So that all of them train as they always have."""
    for path in sorted(CONFIGS.rglob("*.py")):
        if path.name not in ("__init__.py", "paper.py"):
            training = load_file(path).training
            assert training.warmup_steps <= training.num_steps // 10, path


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


@pytest.mark.parametrize("fused", [False, True])
def test_moments_that_were_saved_in_another_memory_layout_are_those_of_their_weights(fused):
    """A fused optimiser reads memory in order, whatever number lies there; GPUs refuse to."""
    shape, config = (4, 3, 3, 3), settings(fused=fused)
    weight, *gradients = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))

    def steps(optimizer, parameter, gradients):
        for gradient in gradients:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()

    straight, saved = (nn.Parameter(weight.clone()) for _ in range(2))
    steps(make_optimizer([straight], config), straight, gradients)
    saved.data = saved.data.to(memory_format=torch.channels_last)
    before = make_optimizer([saved], config)
    steps(before, saved, gradients[:1])
    resumed = nn.Parameter(saved.detach().clone(memory_format=torch.contiguous_format))
    after = make_optimizer([resumed], config)
    load_optimizer(after, before.state_dict())
    steps(after, resumed, gradients[1:])
    torch.testing.assert_close(resumed, straight, rtol=0, atol=1e-7)
