"""The moving average against its closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from score_sde.models import EMA


class Counted(nn.Module):
    """One parameter and one buffer."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))
        self.register_buffer("count", torch.tensor([0]))

    count: Tensor


def test_warm_up_has_a_closed_form() -> None:
    """With `d_n = (1 + n) / (10 + n)` throughout, the product of N of them is N! 9! / (N + 9)!."""
    model = Counted(1.0)
    ema = EMA(model, decay=0.9999)
    model.weight.data.fill_(3.0)
    for _ in range(25):
        ema.update(model)
    left = math.exp(math.lgamma(26) + math.lgamma(10) - math.lgamma(35))
    assert math.isclose(ema.model.weight.item(), 3.0 - 2.0 * left, rel_tol=1e-14)
    assert model.weight.item() == 3.0


def test_decay_is_reached_and_not_passed() -> None:
    """From the update on where the warm-up passes `decay`, the distance falls by `decay` each time."""
    model = Counted(1.0)
    ema = EMA(model, decay=0.5)
    model.weight.data.fill_(0.0)
    values = []
    for _ in range(12):
        ema.update(model)
        values.append(ema.model.weight.item())
    expected = [min(0.5, (1 + n) / (10 + n)) for n in range(12)]
    ratios = [after / before for before, after in zip([1.0, *values], values, strict=False)]
    assert expected[8:] == [0.5] * 4
    assert all(math.isclose(ratio, decay, rel_tol=1e-14) for ratio, decay in zip(ratios, expected, strict=True))


def test_small_and_large_parameters_of_a_model_that_moves_house() -> None:
    """All are averaged alike, before and after the average's parameters are replaced."""
    model = nn.Sequential(nn.Conv2d(2, 64, 3), nn.Conv2d(64, 64, 3))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = EMA(model, decay=0.5)
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    for update in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        decay = min(0.5, (1 + update) / (10 + update))
        expected = [
            decay * old + (1 - decay) * new.detach() for old, new in zip(expected, model.parameters(), strict=True)
        ]
        ema.update(model)
        if update == 5:
            ema.model.load_state_dict({name: tensor.clone() for name, tensor in ema.model.state_dict().items()})
            for parameter in ema.model.parameters():
                parameter.data = parameter.data.clone()
    for one, other in zip(ema.model.parameters(), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_buffers_follow() -> None:
    model = Counted(1.0)
    ema = EMA(model, decay=0.9)
    model.count.fill_(7)
    ema.update(model)
    assert ema.model.count.item() == 7


def test_the_average_is_ready_to_sample_from() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    average = EMA(model, decay=0.9).model
    assert not average.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
