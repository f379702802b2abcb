"""The flow's density against the Jacobian of its map, and where it starts."""

from __future__ import annotations

import math

import torch

from score_sde.data import Bins
from score_sde.models.dequantisation_flow import DequantisationFlow

FLOAT = torch.float64


def test_density_is_that_of_the_map_from_uniform_noise():
    """`log q(x | k) = -log |det dx/du|`, for weights far from where it starts."""
    torch.manual_seed(0)
    flow = DequantisationFlow(2, Bins(5)).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    levels = torch.randint(5, (3, 2, 2, 3))
    uniform = torch.rand(levels.shape, dtype=FLOAT)
    x, log_q = flow(levels, uniform)
    for row in range(3):

        def mapped(u, row=row):
            return flow(levels[row : row + 1], u.reshape(1, 2, 2, 3))[0].flatten()

        jacobian = torch.autograd.functional.jacobian(mapped, uniform[row].flatten())
        torch.testing.assert_close(log_q[row], -torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-9, atol=1e-9)
    assert torch.equal(((x + 1) / 0.4).floor().long(), levels)
    assert float((x.detach() - (-1 + 0.4 * (levels + uniform))).abs().max()) > 0.02


def test_it_starts_as_uniform_noise():
    flow = DequantisationFlow(1, Bins(17))
    levels, uniform = torch.randint(17, (4, 1, 8, 8)), torch.rand(4, 1, 8, 8)
    x, log_q = flow(levels, uniform)
    torch.testing.assert_close(x, -1 + 2 / 17 * (levels + uniform), rtol=0, atol=1e-4)
    torch.testing.assert_close(log_q, torch.full((4,), -64 * math.log(2 / 17), dtype=FLOAT), rtol=1e-4, atol=0)
