"""Thresholding: keeping denoised data inside the range of the data, per example.

Static thresholding clips to `[-bound, bound]`. Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section
2.3) clips to the example's own quantile of `|D|`, where that exceeds the bound, and divides by its ratio to the bound.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Threshold = Callable[[Tensor], Tensor]


def static_threshold(bound: float = 1.0) -> Threshold:
    """Clip the data to `[-bound, bound]`."""
    return lambda data: data.clamp(-bound, bound)


def dynamic_threshold(quantile: float = 0.995, bound: float = 1.0) -> Threshold:
    """Clip each example to its own quantile of `|D|`, at least `bound`, and scale that back to `bound`."""

    def apply(data: Tensor) -> Tensor:
        limit = torch.quantile(data.abs().flatten(1), quantile, dim=1).clamp(min=bound)
        limit = limit.reshape(-1, *[1] * (data.ndim - 1))
        return data.clamp(-limit, limit) * (bound / limit)

    return apply
