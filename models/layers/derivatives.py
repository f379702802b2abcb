"""What kind of differentiation is going on around a forward pass."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def transforms_active() -> bool:
    """Whether forward-mode differentiation or a `torch.func` transform (jvp, grad, vmap, …) is in progress.

    Fused kernels and saved-tensor hooks (which activation checkpointing uses) support neither.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
