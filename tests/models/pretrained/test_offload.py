"""Modules that are brought where they compute as they are called: derivatives too are taken of them as of others."""

from __future__ import annotations

import torch
from torch import nn

from score_sde.models.pretrained.offload import OneAtATime


def test_weights_are_moved_inside_of_derivatives() -> None:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(2))
    x = torch.randn(3)
    expected = torch.func.jacrev(lambda x: second(first(x)))(x)
    parts = OneAtATime(torch.device("cpu"))
    parts.add(first)
    parts.add(second)
    weight = first[0].weight
    found = torch.func.jacrev(lambda x: second(first(x)))(x)
    assert torch.equal(found, expected)
    along = torch.func.jvp(lambda x: second(first(x)), (x,), (x,))[1]
    torch.testing.assert_close(along, expected @ x)
    assert first[0].weight is weight
