"""Patches of the two photographs that come with scikit-learn, a temple and a flower: colour pictures to try things on.

The photographs are halved in size and cut into overlapping squares of 32 x 32 pixels; a band a fifth as wide as the
photograph, right of its middle, is set aside to test on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from score_sde.data.split import Parts

LEVELS = 256
NAMES = ("temple", "flower")
_SIDE, _STRIDE, _TEST_STRIDE = 32, 4, 16
_TEST_BAND = (0.5, 0.7)


def load_photos() -> Parts:
    """Load the patches `(N, 3, 32, 32)`, whose classes are the photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    train, test = [], []
    for photo in load_sample_images().images:
        picture = Image.fromarray(photo)
        halved = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(halved)).movedim(2, 0)
        left, right = (int(edge * pixels.shape[2]) for edge in _TEST_BAND)
        sides = (pixels[:, :, :left], pixels[:, :, right:])
        train.append(torch.cat([_patches(side, _STRIDE) for side in sides]))
        test.append(_patches(pixels[:, :, left:right], _TEST_STRIDE))
    classes, test_classes = (
        torch.cat([torch.full((len(patches),), k) for k, patches in enumerate(part)]) for part in (train, test)
    )
    return Parts(torch.cat(train), torch.cat(test), LEVELS, classes, test_classes, NAMES)


def _patches(pixels: Tensor, stride: int) -> Tensor:
    """Return all squares of a picture `(C, H, W)` at multiples of the stride, `(N, C, side, side)`."""
    windows = pixels.unfold(1, _SIDE, stride).unfold(2, _SIDE, stride)
    return windows.flatten(1, 2).movedim(1, 0).contiguous()
