"""Thresholding: keeping denoised data inside the range of the data, per example.

Static thresholding clips to the range. Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3), with
`d` the distance from the middle of the range and `b` its half width, clips to the example's own quantile of `d`, where
that exceeds `b`, and divides by its ratio to `b`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Threshold = Callable[[Tensor], Tensor]


def static_threshold(low: float = -1.0, high: float = 1.0) -> Threshold:
    """Clip the data to `[low, high]`."""
    return lambda data: data.clamp(low, high)


def dynamic_threshold(low: float = -1.0, high: float = 1.0, quantile: float = 0.995) -> Threshold:
    """Clip each example to its own quantile of the distance from the middle of `[low, high]`, and scale that back."""
    middle, bound = (low + high) / 2, (high - low) / 2

    def apply(data: Tensor) -> Tensor:
        centred = data - middle
        limit = torch.quantile(centred.abs().flatten(1), quantile, dim=1).clamp(min=bound)
        limit = limit.reshape(-1, *[1] * (data.ndim - 1))
        return middle + centred.clamp(-limit, limit) * (bound / limit)

    return apply
