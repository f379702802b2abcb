"""Augmentations: random changes of a batch of pictures `(B, C, H, W)` of levels.

A flip or a shift leaves the meaning of a batch alone. A distortion does not: distorted pictures are another
distribution, so a network has to be told which pictures are distorted, and asked for those that are not (Karras et al.
2020, arXiv:2006.06676; Jun et al. 2020, http://proceedings.mlr.press/v119/jun20a).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.common.errors import choose
from score_sde.common.noise import BatchNoise

Augmentation = Callable[[Tensor, BatchNoise], Tensor]

_MAX_SHIFT = 1

# Standard deviations of a distortion: an angle in radians, shares of the picture's size, a slope.
_ROTATION, _SCALE, _SHIFT, _SHEAR = 0.12, 0.05, 0.03, 0.1


def flip(x: Tensor, noise: BatchNoise) -> Tensor:
    """Mirror each picture left to right with probability 1/2."""
    mirrored = noise.uniform(_numbers(x)) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def shift(x: Tensor, noise: BatchNoise) -> Tensor:
    """Move each picture by -1, 0 or 1 pixels in each direction; pixels that enter have level 0."""
    height, width = x.shape[-2:]
    padded = F.pad(x, [_MAX_SHIFT] * 4)
    corners = (noise.uniform(_numbers(x, 2)) * (2 * _MAX_SHIFT + 1)).long()
    rows, columns = (
        corners[:, k, None] + torch.arange(size, device=x.device) for k, size in enumerate((height, width))
    )
    picture = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[:, None, None]
    return padded[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]


def distort(x: Tensor, noise: BatchNoise) -> Tensor:
    """Turn, stretch, slant and shift each picture by a little; pixels that enter have level 0, none gets brighter."""
    count = len(x)
    normal = noise.normal(_numbers(x, 6))
    angle, slant = _ROTATION * normal[:, 0], _SHEAR * normal[:, 1]
    stretch = 1 + _SCALE * normal[:, 2:4]
    # In `affine_grid` a picture reaches from -1 to 1.
    offset = 2 * _SHIFT * normal[:, 4:]
    rows = torch.stack([angle.cos() * stretch[:, 0], slant - angle.sin(), angle.sin(), angle.cos() * stretch[:, 1]], 1)
    matrices = torch.cat([rows.reshape(count, 2, 2), offset.unsqueeze(2)], dim=2)
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    moved = F.grid_sample(x.float(), grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    brightest = x.flatten(1).amax(1).float().reshape(-1, 1, 1, 1)
    return torch.minimum(moved.round().clamp(min=0), brightest).to(x.dtype)


AUGMENTATIONS: dict[str, Augmentation] = {"flip": flip, "shift": shift, "distort": distort}


def get_augmentation(names: str) -> Augmentation | None:
    """Return the augmentation that applies comma-separated keys of `AUGMENTATIONS` in turn; None for an empty list.

    Raises:
        UserError: there is no such augmentation.
    """
    chosen = [choose("augmentation", name.strip(), AUGMENTATIONS) for name in names.split(",") if name.strip()]

    def augment(x: Tensor, noise: BatchNoise) -> Tensor:
        for change in chosen:
            x = change(x, noise)
        return x

    return augment if chosen else None


def _numbers(x: Tensor, *shape: int) -> Tensor:
    """Return an empty tensor of the shape and on the device in which random numbers for the pictures `x` are wanted."""
    return torch.empty(len(x), *shape, device=x.device)
