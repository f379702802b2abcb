"""What is heard of conditions, and what is learnt of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from score_sde.common.condition import Condition
from score_sde.models.layers.condition import TokensOrNone, VectorsBeside, VectorsOfVectors


@pytest.mark.parametrize(
    "ear", [VectorsOfVectors(3, 4), VectorsBeside({"a": 3}, 4), TokensOrNone(3)], ids=["vector", "beside", "tokens"]
)
def test_what_is_never_hidden_leaves_no_weight_without_a_gradient(ear: nn.Module) -> None:
    """Several processes wait for the gradient of each weight; that of "hidden" is zero, and changes nothing told."""
    value = torch.randn(2, 5, 3) if isinstance(ear, TokensOrNone) else torch.randn(2, 3)
    told: Any = (Condition({"a": value}), 2) if isinstance(ear, VectorsBeside) else (value, None, 2)
    ear(*told).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in ear.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert not any(gradient.any() for name, gradient in gradients.items() if gradient is not None and "hidden" in name)
