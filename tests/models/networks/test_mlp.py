"""The network for vectors against its formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models import MLP
from score_sde.models.layers.condition import Vector
from score_sde.models.layers.text import WIDTH, Text


def make_mlp(dimension: int) -> MLP:
    torch.manual_seed(0)
    network = MLP(dimension, width=16, num_blocks=2).double()
    torch.nn.init.normal_(network.output.weight)
    return network


def test_formula() -> None:
    network = make_mlp(3)
    x, labels = torch.randn(5, 3, dtype=torch.float64), torch.linspace(-200, 200, 5, dtype=torch.float64)
    frequencies = torch.exp(-math.log(10_000) * torch.arange(32, dtype=torch.float64) / 31)
    angles = labels[:, None] * frequencies
    weights = dict(network.named_parameters())

    def affine(name: str, h: torch.Tensor) -> torch.Tensor:
        return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    embedding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    embedding = F.silu(affine("embedding.output", F.silu(affine("embedding.hidden", embedding))))
    h = affine("input", x)
    for block in ("blocks.0", "blocks.1"):
        inner = affine(f"{block}.first", F.silu(h)) + affine(f"{block}.modulation", embedding)
        h = h + affine(f"{block}.second", F.silu(inner))
    torch.testing.assert_close(network(x, labels), affine("output", F.silu(h)), rtol=1e-12, atol=1e-12)


def test_any_shape_is_a_vector() -> None:
    network = make_mlp(12)
    x, labels = torch.randn(5, 3, 2, 2, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(network(x, labels).flatten(1), network(x.flatten(1), labels), rtol=0, atol=0)


def test_starts_near_zero() -> None:
    assert MLP(4)(torch.randn(8, 4), torch.zeros(8)).abs().max() < 1e-4


def test_a_text_is_heard_by_its_vector() -> None:
    """A network told a text is one told its encoder's vector: the same weights give the same output."""
    torch.manual_seed(0)
    told = MLP(3, width=16, num_blocks=1, conditions={"caption": Text(9, 4)}).double()
    torch.nn.init.normal_(told.output.weight)
    plain = MLP(3, width=16, num_blocks=1, conditions={"caption_whole": Vector(WIDTH, scales=True)}).double()
    names = plain.state_dict().keys()
    plain.load_state_dict({name: value for name, value in told.state_dict().items() if name in names})
    x, labels = torch.randn(5, 3, dtype=torch.float64), torch.linspace(-99, 99, 5, dtype=torch.float64)
    words = torch.tensor([[2, 3, 4, 5], [8, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0], [5, 4, 3, 2]])
    hidden = torch.tensor([False, False, True, False, False])
    _, vectors = told.texts.encoders["caption"](words)
    condition = Condition({"caption": words}).hidden("caption", hidden)
    expected = plain(x, labels, Condition({"caption_whole": vectors}).hidden("caption_whole", hidden))
    torch.testing.assert_close(told(x, labels, condition), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(told(x, labels)[2], expected[2], rtol=1e-12, atol=1e-12)
    with pytest.raises(UserError, match="must be"):
        told(x, labels, Condition({"caption": words[:, :3]}))
