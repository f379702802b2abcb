"""Decoding tile by tile, where all of an example at once would take too much memory.

Latents are cut into tiles, each is decoded with what lies around it, as far as `overlap`, and what neighbours say of
the strip around the seam between them, `overlap` wide, is blended linearly. A decoder of convolutions, for which a
latent is felt no farther than `overlap / 2`, gives what it would give of the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def decode_in_tiles(decode: Callable[[Tensor], Tensor], z: Tensor, factor: int, tile: int, overlap: int) -> Tensor:
    """Return what is decoded of latents, `(B, C, *factor size)`.

    Args:
        decode: the decoder, which makes examples `factor` times larger than latents.
        z: latents `(B, channels, *size)`.
        factor: how many times larger examples are along each axis.
        tile: latents of a tile along each axis.
        overlap: how far around a tile latents are decoded with it; even, and no larger than a tile.
    """
    sizes = z.shape[2:]
    whole: Tensor | None = None
    for starts in itertools.product(*(range(0, size, tile) for size in sizes)):
        around: Any = tuple(
            slice(max(0, start - overlap), min(size, start + tile + overlap))
            for start, size in zip(starts, sizes, strict=True)
        )
        decoded = decode(z[(..., *around)])
        for axis, (start, place, size) in enumerate(zip(starts, around, sizes, strict=True), start=2):
            share = _share(place, start, start + tile, size, factor, overlap).to(decoded)
            decoded = decoded * share.reshape(-1, *(1,) * (z.ndim - 1 - axis))
        if whole is None:
            whole = decoded.new_zeros(*decoded.shape[:2], *(factor * size for size in sizes))
        there: Any = (..., *(slice(factor * place.start, factor * place.stop) for place in around))
        whole[there] += decoded
    assert whole is not None
    return whole


def _share(place: slice, start: int, stop: int, size: int, factor: int, overlap: int) -> Tensor:
    """Return what part of the answer is a tile's, along an axis, at each position that is decoded with it.

    Args:
        place: the latents that are decoded.
        start: the first latent of the tile.
        stop: the first latent after it.
        size: how many latents there are.
        factor: positions of a latent.
        overlap: width of the strip around a seam, in latents; shares of neighbours add up to 1 there.
    """
    position = (torch.arange(factor * place.start, factor * place.stop, dtype=torch.float64) + 0.5) / factor
    share = torch.ones_like(position)
    if start > 0:
        share = share * ((position - start) / max(overlap, 1e-9) + 0.5).clamp(0, 1)
    if stop < size:
        share = share * ((stop - position) / max(overlap, 1e-9) + 0.5).clamp(0, 1)
    return share
