"""The network for vectors against its formula."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from score_sde.models import MLP


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
