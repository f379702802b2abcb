"""Double precision where there is none: Apple's accelerators have no float64."""

from __future__ import annotations

import torch
from torch import Tensor

# Types of devices that cannot hold a float64 tensor.
WITHOUT_FLOAT64 = {"mps"}


def widest_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has no float64."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def in_float64(x: Tensor) -> Tensor:
    """Return `x` in float64: where it lies, or on the CPU if its device has no float64; differentiable."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()
