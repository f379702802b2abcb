r"""Exponential moving average of a model's parameters.

    average <- d average + (1 - d) parameters,      d = min(decay, (1 + n) / (10 + n))

with `n` the number of updates so far: early on, the average forgets the initial parameters quickly. Buffers, and
parameters that are whole numbers, are states rather than weights: those of the model are copied.

Small parameters, of which a network has hundreds, are averaged as one vector, since each operation costs more than
their numbers do; on a GPU one operation averages them all as they are.
"""

from __future__ import annotations

import copy
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

_Model = TypeVar("_Model", bound=nn.Module)
# A parameter of no more numbers than this counts as small.
_SMALL = 2**14


class _Pairs(NamedTuple):
    """The parameters of an average are paired with those of its model: to be averaged, small and large, or copied."""

    model: nn.Module
    small: list[tuple[nn.Parameter, nn.Parameter]]
    large: list[tuple[nn.Parameter, nn.Parameter]]
    copied: list[tuple[Tensor, Tensor]]

    @staticmethod
    def of(average: nn.Module, model: nn.Module) -> _Pairs:
        """Pair the parameters of an average with those of its model, by what is done to them."""
        pairs = _Pairs(model, [], [], list(zip(average.buffers(), model.buffers(), strict=True)))
        for pair in zip(average.parameters(), model.parameters(), strict=True):
            of_average, _ = pair
            if not (of_average.is_floating_point() or of_average.is_complex()):
                pairs.copied.append(pair)
            elif of_average.numel() <= _SMALL and not (of_average.is_cuda or is_divided(of_average)):
                pairs.small.append(pair)
            else:
                pairs.large.append(pair)
        return pairs


class EMA(Generic[_Model]):
    """A copy of a model trails the original: its parameters are averages, its buffers are the same.

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
        self._joined = torch.empty(0)
        self._pairs: _Pairs | None = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`, which has the names and shapes of the original."""
        decay = decay_of_update(self.decay, self.num_updates)
        # Finding parameters takes as long as averaging small ones.
        if self._pairs is None or self._pairs.model is not model:
            self._pairs = _Pairs.of(self.model, model)
        _, small, large, copied = self._pairs
        if small:
            self._join([average for average, _ in small])
            self._joined.lerp_(torch.cat([parameter.reshape(-1) for _, parameter in small]), 1 - decay)
        if large:
            torch._foreach_lerp_([_local(p) for p, _ in large], [_local(p) for _, p in large], 1 - decay)
        if copied:
            torch._foreach_copy_(
                [_local(average) for average, _ in copied], [_local(original) for _, original in copied]
            )
        self.num_updates += 1

    def _join(self, averages: list[nn.Parameter]) -> None:
        """Make the small averages parts of one vector, unless they are already."""
        if averages[0].untyped_storage().data_ptr() == self._joined.untyped_storage().data_ptr():
            return
        self._joined = torch.cat([average.reshape(-1) for average in averages])
        parts = self._joined.split([average.numel() for average in averages])
        for average, part in zip(averages, parts, strict=True):
            average.data = part.view(average.shape)


def decay_of_update(decay: float, updates: int) -> float:
    """Return the decay of an update that comes after this many `updates`."""
    return min(decay, (1 + updates) / (10 + updates))


def is_divided(tensor: Tensor) -> bool:
    """Say whether a tensor is divided among several processes (a DTensor, whose class takes a second to import)."""
    return hasattr(tensor, "to_local")


def _local(parameter: Tensor) -> Tensor:
    """Return this process's part of a parameter that may be divided among several."""
    return parameter.to_local() if is_divided(parameter) else parameter  # type: ignore[attr-defined]
