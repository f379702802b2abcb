r"""Exponential moving average of a model's parameters.

    average <- d average + (1 - d) parameters,      d = min(decay, (1 + n) / (10 + n))

with `n` the number of updates so far: early on, the average forgets the initial parameters quickly.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_Model = TypeVar("_Model", bound=nn.Module)


class EMA(Generic[_Model]):
    """A copy of a model whose parameters trail the original's, and whose buffers equal them.

    Args:
        model: the model being trained.
        decay: how much of the average survives an update, in the long run.

    Attributes:
        model: the averaged model, in evaluation mode: ready to sample from.
        num_updates: number of updates so far.
    """

    def __init__(self, model: _Model, decay: float) -> None:
        self.model: _Model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`, which has the names and shapes of the original."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averages, parameters = ([_local(p) for p in owner.parameters()] for owner in (self.model, model))
        torch._foreach_lerp_(averages, parameters, 1 - decay)
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
        self.num_updates += 1


def _local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter that may be divided among several."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
