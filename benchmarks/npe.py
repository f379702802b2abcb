"""Neural posterior estimation with a masked autoregressive flow, as the package `sbi` has it by default: a rival.

Five transforms of two numbers (Papamakarios et al. 2017, arXiv:1705.07057), each

    z_1 = (theta_1 - m(x)) exp(-s(x)),    z_2 = (theta_2 - m(theta_1, x)) exp(-s(theta_1, x)),

with the numbers swapped in between, 50 features in two hidden layers, Adam at 5e-4 on batches of 200, until the loss of
a tenth of the simulations has not fallen for 20 epochs; what is drawn outside the prior is drawn again. It stands in
for `sbi`, which was not at hand: the numbers are its defaults, the code is not its own.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn


class Flow(nn.Module):
    """A flow gives the density of two numbers given an observation, and draws them."""

    def __init__(self, observed: int, num_transforms: int = 5, width: int = 50) -> None:
        super().__init__()
        pairs = [[_network(observed + before, width) for before in (0, 1)] for _ in range(num_transforms)]
        self.first, self.second = (nn.ModuleList(networks) for networks in zip(*pairs, strict=True))

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return log-densities `(N,)` of numbers `(N, 2)` given observations `(N, k)`, all of them standardised."""
        scales = theta.new_zeros(len(theta))
        for first, second in zip(self.first, self.second, strict=True):
            (m, s), (n, t) = first(x).unbind(1), second(torch.cat([theta[:, :1], x], 1)).unbind(1)
            theta = torch.stack([(theta[:, 1] - n) * torch.exp(-t), (theta[:, 0] - m) * torch.exp(-s)], 1)
            scales = scales + s + t
        return -theta.square().sum(1) / 2 - math.log(2 * math.pi) - scales

    def draw(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the numbers `(N, 2)` that standard normal ones become."""
        for first, second in zip(reversed(self.first), reversed(self.second), strict=True):
            m, s = first(x).unbind(1)
            theta = m + torch.exp(s) * z[:, 1]
            n, t = second(torch.cat([theta[:, None], x], 1)).unbind(1)
            z = torch.stack([theta, n + torch.exp(t) * z[:, 0]], 1)
        return z


def fit(theta: np.ndarray, x: np.ndarray, seed: int, patience: int = 20) -> Flow:
    """Train a flow on standardised pairs, and return the one with the lowest loss of those that are set aside."""
    torch.manual_seed(seed)
    pairs = [torch.as_tensor(part, dtype=torch.float32) for part in (theta, x)]
    order = torch.randperm(len(theta))
    aside, known = order[: len(theta) // 10], order[len(theta) // 10 :]
    flow = Flow(x.shape[1])
    optimizer = torch.optim.Adam(flow.parameters(), 5e-4)
    best, kept, since = math.inf, flow, 0
    while since < patience:
        for rows in known[torch.randperm(len(known))].split(200):
            optimizer.zero_grad()
            (-flow.log_prob(*(part[rows] for part in pairs)).mean()).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimizer.step()
        with torch.no_grad():
            loss = -flow.log_prob(*(part[aside] for part in pairs)).mean().item()
        since += 1
        if loss < best:
            best, kept, since = loss, copy.deepcopy(flow), 0
    return kept


def _network(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
