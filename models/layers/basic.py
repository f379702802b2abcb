"""The affine and normalising layers every block is made of, initialised as in DDPM.

Weights are uniform with variance `init_scale * 2 / (fan_in + fan_out)`, biases zero (Ho et al. 2020, arXiv:2006.11239).
`init_scale=0` stands for a variance of 1e-10: a block that ends in such a layer starts as the identity.

What kind of differentiation is going on around a forward pass.
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_LayerT = TypeVar("_LayerT", nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

# Channels of one GroupNorm group share a mean and a variance; the papers never use more groups than this.
MAX_GROUPS = 32
# Scale of the initial weights of what features are multiplied by, beside 1.
SCALE = 0.1


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    init_scale: float = 1.0,
) -> nn.Conv2d:
    """Return a convolution that keeps the image's size (unless `stride` or `padding` say otherwise)."""
    padding = kernel_size // 2 if padding is None else padding
    return initialise(nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding), init_scale)


def linear(in_features: int, out_features: int, *, init_scale: float = 1.0) -> nn.Linear:
    """Return an affine map of the last axis."""
    return initialise(nn.Linear(in_features, out_features), init_scale)


def initialise(layer: _LayerT, init_scale: float = 1.0) -> _LayerT:
    """Give `layer` the weights and biases described above, and return it."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(init_scale or 1e-10))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def zeroed(layer: nn.Module) -> nn.Module:
    """Return a layer with all of its weights and biases zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def with_more_inputs(layer: nn.Module, count: int) -> nn.Module:
    """Return a convolution, which something else may precede, or an affine map, with so many further inputs, after its
    own, whose weights are zero.
    """
    wider = copy.deepcopy(layer)
    for module in wider.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            module.in_channels += count
        elif isinstance(module, nn.Linear):
            module.in_features += count
        else:
            continue
        rows, _, *kernel = module.weight.shape
        module.weight = nn.Parameter(torch.cat([module.weight, module.weight.new_zeros(rows, count, *kernel)], dim=1))
    return wider


class GroupNorm(nn.GroupNorm):
    """Normalise groups as PyTorch does, but with derivatives in forward mode for channels-last images, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous() if transforms_active() else x)


class PositionNorm(nn.Module):
    """Divide features `(B, C, *size)` by their root mean square at each position, then scale and shift each channel.

    What comes of a position depends on it alone, whatever lies around it (Zhang & Sennrich 2019, arXiv:1910.07467).
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        each = (..., *(None,) * (x.ndim - 2))
        # Squares of reduced precision would lose what is small.
        scale = torch.rsqrt(x.to(torch.promote_types(x.dtype, torch.float32)).square().mean(1, keepdim=True) + self.eps)
        return x * scale.to(x.dtype) * self.weight[each].to(x.dtype) + self.bias[each].to(x.dtype)


def group_norm(channels: int, channels_per_group: int = 4, eps: float = 1e-6) -> GroupNorm:
    """Return a GroupNorm with as many groups, up to 32, as divide `channels` and leave `channels_per_group` in each.

    NCSN++ keeps at least 4 channels a group; DDPM and ADM, which have 32 groups at every width, ask for at least 1.
    """
    most = max(1, min(channels // channels_per_group, MAX_GROUPS))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return GroupNorm(groups, channels, eps=eps)


def residual_sum(x: Tensor, branch: Tensor, rescale: bool) -> Tensor:
    """Return `x + branch`, divided by sqrt(2) if `rescale`, which keeps the variance of a sum of independent terms
    (`skip_rescale`).
    """
    total = x + branch
    return total.div_(math.sqrt(2)) if rescale else total


def transforms_active() -> bool:
    """Say whether forward-mode differentiation or a `torch.func` transform (jvp, grad, vmap, …) is in progress.

    Fused kernels and saved-tensor hooks (which activation checkpointing uses) support neither.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
