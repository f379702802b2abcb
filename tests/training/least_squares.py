"""A problem that is no score model's: a line through noisy points, by least squares; its solution is known."""

from __future__ import annotations

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from score_sde.common import distributed
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.experiment import configuration
from score_sde.training.objectives import Losses

SLOPE, OFFSET, STD = 0.7, -0.4, 0.1


class Line(nn.Module):
    """`y = network(x) + offset + fixed`; the offset lies outside the network, what is fixed is not trained."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        first = nn.Linear(1, 3, bias=False)
        self.network = nn.Sequential(first, Rescaled())
        self.offset = nn.Parameter(torch.zeros(1))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("steps", torch.tensor(0))
        with torch.no_grad():
            first.weight.copy_(torch.tensor([[0.1], [0.2], [0.3]]))

    def shard_units(self) -> list[nn.Module]:
        return [self.network[1]]

    def at(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return self.network(x)[:, 0] + self.offset + self.fixed

    @property
    def slope(self) -> float:
        return self.network(torch.ones(1, 1, device=self.offset.device)).item()


class Rescaled(nn.Module):
    """The sum of the features, each with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(3))

    def forward(self, features: Tensor) -> Tensor:
        return (self.weights * features).sum(1, keepdim=True)


def squared_error(model: Line, batch: Batch, noise: BatchNoise) -> Losses:
    """Return the squared error of each example's second number, predicted from its first without `model.forward`."""
    return Losses((model.at(batch.x_0[:, :1]) - batch.x_0[:, 1]).square())


class Points:
    """Batches are functions of their number; each process has its rows of them."""

    def __init__(self, size: int) -> None:
        self.step = 0
        self.size = size

    def __next__(self) -> Batch:
        batch = points(self.size, self.step)[distributed.rows()]
        self.step += 1
        return batch


def points(count: int, seed: int) -> Batch:
    draws = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    x, error = draws[:, 0], STD * draws[:, 1]
    return Batch(torch.stack([x, SLOPE * x + OFFSET + error], 1))


def settings(**values: object) -> ConfigDict:
    config = configuration.load_file("configs/default.py")
    config.training.update(num_steps=30, batch_size=16, learning_rate=1e-2, warmup_steps=5, ema_decay=0.9)
    config.training.update(checkpoint_every=10, log_every=0, evaluate_every=0, sample_every=0, keep_checkpoints=9)
    config.training.update(values)
    return config
