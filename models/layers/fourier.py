r"""Fourier features of a network's input (Kingma et al. 2021, arXiv:2107.00630, appendix C).

    x  ->  x,  sin(2^n pi x),  cos(2^n pi x)      for each exponent n

laid beside each other as channels. Convolutions change slowly with their input; where the last bits of a likelihood are
in how a pixel lies between two grey levels, they are told them larger. The paper has n = 7 and 8 for 256 levels in
[-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def with_fourier_features(x: Tensor, exponents: Sequence[int]) -> Tensor:
    """Return `x` `(B, C, *size)` with its features of these exponents beside it, `(B, C (1 + 2 N), *size)`."""
    if not exponents:
        return x
    angles = [2.0**n * math.pi * x for n in exponents]
    return torch.cat([x, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], dim=1)


def num_features(channels: int, exponents: Sequence[int]) -> int:
    """Count the channels of an input with its Fourier features."""
    return channels * (1 + 2 * len(exponents))
