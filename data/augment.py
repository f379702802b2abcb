"""Augmentations: random changes of a batch of pictures `(B, C, H, W)` of levels that leave its meaning alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from errors import choose

Augmentation = Callable[[Tensor, torch.Generator], Tensor]

_MAX_SHIFT = 1


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each picture left to right with probability 1/2."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(-1), x)


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move each picture by -1, 0 or 1 pixels in each direction; pixels that enter have level 0."""
    height, width = x.shape[-2:]
    padded = F.pad(x, [_MAX_SHIFT] * 4)
    corners = torch.randint(2 * _MAX_SHIFT + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack(
        [picture[:, i : i + height, j : j + width] for picture, (i, j) in zip(padded, corners, strict=True)]
    )


AUGMENTATIONS: dict[str, Augmentation] = {"flip": flip, "shift": shift}


def get_augmentation(names: str) -> Augmentation | None:
    """One function for a comma-separated list of keys of `AUGMENTATIONS`, applied in turn; None for an empty list.

    Raises:
        UserError: there is no such augmentation.
    """
    chosen = [choose("augmentation", name.strip(), AUGMENTATIONS) for name in names.split(",") if name.strip()]

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        for change in chosen:
            x = change(x, generator)
        return x

    return augment if chosen else None
