r"""Random masks: which places of a training example are hidden, so that a model learns them given the others.

    half       half of the example along one axis: its beginning or its end
    box        a box, between a quarter and all of the size long along each axis
    stroke     what lies near one of three straight lines, as of a broad brush
    pixels     a share of the places, uniform in [0, 1], each by itself
    all        everything, so that the model knows `p(x)` beside `p(x_hidden | x_known)`

All channels of a place are hidden together; the places of a vector are its numbers. A model of pictures that is told
the known pixels and the mask is GLIDE's for inpainting (Nichol et al. 2021, arXiv:2112.10741, section 2.4). Here the
hidden pixels alone are noised, and in the loss: they have a diffusion of their own (`common.part`), and with it a
density. Brushes of this kind are those of LaMa (Suvorov et al. 2021, arXiv:2109.07161).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from score_sde.common.noise import BatchNoise
from score_sde.common.part import Part

_SHORTEST = 0.25
_NUM_LINES, _THINNEST, _BROADEST = 3, 0.05, 0.2


def masked_part(shown: Tensor, noise: BatchNoise, kinds: Sequence[str]) -> Part:
    """Return a part of each example in which what a random mask hides is modelled, given the rest.

    Args:
        shown: what is told of the examples where they are known, `(B, *dims)`, in model units.
        noise: the source of the masks.
        kinds: the kinds of masks, keys of `MASKS`, each as likely as the others.
    """
    hidden = random_masks(shown, noise, kinds).expand_as(shown)
    return Part(torch.where(hidden, 0, shown), ~hidden, hidden)


def random_masks(like: Tensor, noise: BatchNoise, kinds: Sequence[str]) -> Tensor:
    """Return which places of examples `like` `(B, *dims)` are hidden, at least one of each: bool, `(B, 1, *sizes)`, of
    vectors `(B, d)`."""
    sizes = like.shape[2:] or like.shape[1:]
    place = noise.uniform(like.new_empty(len(like), *sizes))
    which = (noise.uniform(like.new_empty(len(like))) * len(kinds)).long()
    hidden = torch.zeros_like(place, dtype=torch.bool)
    for number, kind in enumerate(kinds):
        hidden = torch.where(_rows(which == number, place), MASKS[kind](place, noise), hidden)
    first = torch.zeros_like(hidden).flatten(1).scatter_(1, place.flatten(1).argmax(1)[:, None], True)
    empty = ~hidden.flatten(1).any(1)
    hidden = torch.where(_rows(empty, place), first.reshape(hidden.shape), hidden)
    return hidden if like.ndim == 2 else hidden.unsqueeze(1)


def _half(place: Tensor, noise: BatchNoise) -> Tensor:
    axes = place.ndim - 1
    drawn = noise.uniform(place.new_empty(len(place), 2))
    chosen = (drawn[:, 0] * axes).long()
    along = _coordinates(place).gather(0, chosen.reshape(1, -1, *(1,) * axes).expand(1, *place.shape))[0]
    return (along < 0.5) == _rows(drawn[:, 1] < 0.5, place)


def _box(place: Tensor, noise: BatchNoise) -> Tensor:
    drawn = noise.uniform(place.new_empty(len(place), 2, place.ndim - 1))
    length = _SHORTEST + (1 - _SHORTEST) * drawn[:, 0]
    start = (1 - length) * drawn[:, 1]
    inside = torch.ones_like(place, dtype=torch.bool)
    for axis, along in enumerate(_coordinates(place)):
        from_start = along - _rows(start[:, axis], place)
        inside &= (from_start >= 0) & (from_start <= _rows(length[:, axis], place))
    return inside


def _stroke(place: Tensor, noise: BatchNoise) -> Tensor:
    axes = place.ndim - 1
    ends = noise.uniform(place.new_empty(len(place), _NUM_LINES, 2, axes))
    radii = _THINNEST + (_BROADEST - _THINNEST) * noise.uniform(place.new_empty(len(place), _NUM_LINES))
    here = _coordinates(place).flatten(2).permute(1, 2, 0)  # (B, places, axes)
    near = torch.zeros(here.shape[:2], dtype=torch.bool, device=place.device)
    for number in range(_NUM_LINES):
        first, second = ends[:, number, 0, None], ends[:, number, 1, None]
        along = second - first
        share = ((here - first) * along).sum(2, keepdim=True) / along.square().sum(2, keepdim=True).clamp(min=1e-12)
        away = here - first - share.clamp(0, 1) * along
        near |= away.square().sum(2) <= radii[:, number, None].square()
    return near.reshape(place.shape)


def _pixels(place: Tensor, noise: BatchNoise) -> Tensor:
    return place < _rows(noise.uniform(place.new_empty(len(place))), place)


def _all(place: Tensor, noise: BatchNoise) -> Tensor:
    return torch.ones_like(place, dtype=torch.bool)


MASKS = {"half": _half, "box": _box, "stroke": _stroke, "pixels": _pixels, "all": _all}


def _coordinates(place: Tensor) -> Tensor:
    """Return the middles of places along each axis, in parts of the size: `(axes, B, *sizes)` for `(B, *sizes)`."""
    sizes = place.shape[1:]
    along = [(torch.arange(size, device=place.device, dtype=place.dtype) + 0.5) / size for size in sizes]
    return torch.stack(torch.meshgrid(*along, indexing="ij"))[:, None].expand(-1, len(place), *sizes)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))
