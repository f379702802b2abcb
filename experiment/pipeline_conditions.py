"""What a pipeline's model is told beside prompts: pictures to fill in, depths, pictures that control."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.experiment.arrays import as_array
from score_sde.models.pretrained.latent_pipelines import LatentPipeline
from score_sde.models.pretrained.stable_diffusion import CONTROL, DEPTH, MASKED, SIZES

# What is given, by the name under which the model hears it.
GIVEN = {
    MASKED: ("picture", "mask"),
    DEPTH: ("depth",),
    CONTROL: ("control",),
    # The library's names for them; each may be left out.
    SIZES: ("original_size", "crops_coords_top_left", "target_size"),
}
_MIDDLE = 127.5


def told_beside(
    pipeline: LatentPipeline, given: Mapping[str, Any], count: int, size: tuple[int, int]
) -> Condition | None:
    """Return what the model is told besides of so many samples; None if it is told nothing.

    Args:
        pipeline: the pipeline.
        given: pictures uint8 `(N, C, H, W)` or `(N, H, W, C)`, a mask `(N, H, W)`, not 0 where the picture is to be
            filled in, depths `(N, H, W)`, larger what is nearer; of each one for all samples or one for each. Sizes
            and corners are pairs of numbers of pixels, for all samples.
        count: the number of samples.
        size: height and width of the pictures.

    Raises:
        UserError: something is missing, or is not heard, or has another shape.
    """
    there = {name: value for name, value in given.items() if value is not None}
    wanted = [each for name in pipeline.beside for each in GIVEN[name]]
    for name in wanted:
        if name not in there:
            raise UserError(f"this pipeline is always told {' and '.join(wanted)}: give {name}=")
    known = [*wanted, *(GIVEN[SIZES] if pipeline.sized else ())]
    for name in there:
        if name not in known:
            raise UserError(f"this pipeline is not told {name}: leave {name}= out")
    if not there:
        return None
    sizes = [SIZES] if any(name in there for name in GIVEN[SIZES]) else []
    values = {name: _MAKERS[name](pipeline, there, size) for name in [*pipeline.beside, *sizes]}
    for name, value in values.items():
        if len(value) not in (1, count):
            raise UserError(
                f"{len(value)} of {' and '.join(GIVEN[name])} for {count} samples: give one, or one for each"
            )
    return Condition({name: value.expand(count, *value.shape[1:]) for name, value in values.items()})


def size_of(given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of what is given besides; None if nothing is."""
    for name, value in given.items():
        if value is not None and name not in GIVEN[SIZES]:
            shape = np.shape(value)
            flat = name in ("mask", "depth")
            return (shape[-2], shape[-1]) if flat or shape[-1] not in (1, 3) else (shape[-3], shape[-2])
    return None


def as_pictures(x: Any, channels: int) -> tuple[Tensor, bool]:
    """Return pictures, uint8 `(N, C, H, W)`, and whether it was one by itself.

    Raises:
        UserError: these are no pictures of so many channels.
    """
    pictures = torch.as_tensor(as_array(x))
    alone = pictures.ndim == 3
    pictures = pictures[None] if alone else pictures
    if pictures.dtype != torch.uint8 or pictures.ndim != 4:
        raise UserError(f"pictures are uint8 (N, {channels}, H, W), not {pictures.dtype} {tuple(pictures.shape)}")
    pictures = pictures.movedim(3, 1) if pictures.shape[1] != channels == pictures.shape[3] else pictures
    if pictures.shape[1] != channels:
        raise UserError(f"pictures are uint8 (N, {channels}, H, W), not {tuple(pictures.shape)}")
    return pictures, alone


def _control(pipeline: LatentPipeline, given: Mapping[str, Any], size: tuple[int, int]) -> Tensor:
    pictures = _of_size(as_pictures(given["control"], pipeline.beside[CONTROL])[0], size, "control")
    return pictures.float() / 255


def _depth(pipeline: LatentPipeline, given: Mapping[str, Any], size: tuple[int, int]) -> Tensor:
    """Return depths from -1 to 1 of each picture, as large as its latents."""
    depths = _of_size(_flat(given["depth"], "depth").float(), size, "depth")
    latents = tuple(length // pipeline.autoencoder.factor for length in size)
    smaller = F.interpolate(depths, size=latents, mode="bicubic", align_corners=False)
    low, high = smaller.amin((1, 2, 3), keepdim=True), smaller.amax((1, 2, 3), keepdim=True)
    if not bool((high > low).all()):
        raise UserError("a depth is the same everywhere, or is not finite: it says nothing")
    return 2 * (smaller - low) / (high - low) - 1


def _masked(pipeline: LatentPipeline, given: Mapping[str, Any], size: tuple[int, int]) -> Tensor:
    """Return the mask, 1 where the picture is to be filled in, and the latents of the rest, whose hole is grey."""
    pictures = as_pictures(given["picture"], pipeline.autoencoder.picture_channels)[0]
    pictures = _of_size(pictures, size, "picture")
    mask = (_of_size(_flat(given["mask"], "mask"), size, "mask") != 0).float()
    if len(mask) not in (1, len(pictures)):
        raise UserError(f"{len(mask)} masks for {len(pictures)} pictures: give one for all, or one for each")
    rest = pipeline.autoencoder.encode(torch.where(mask.expand(len(pictures), -1, -1, -1) > 0, _MIDDLE, pictures))
    smaller = F.interpolate(mask, size=rest.shape[2:])
    return torch.cat([smaller.expand(len(rest), -1, -1, -1).to(rest), rest], dim=1)


def _sizes(pipeline: LatentPipeline, given: Mapping[str, Any], size: tuple[int, int]) -> Tensor:
    """Return the six numbers of pixels; a picture is as large as it is to be, and uncut, where nothing else is told."""
    pairs = [given.get(name, usual) for name, usual in zip(GIVEN[SIZES], (size, (0, 0), size), strict=True)]
    for name, pair in zip(GIVEN[SIZES], pairs, strict=True):
        whole = isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_is_size, pair))
        if not whole:
            raise UserError(f"{name} is two numbers of pixels, of height and width, not {pair!r}")
    return torch.tensor([[int(number) for pair in pairs for number in pair]], dtype=torch.float32)


def _is_size(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 0


_MAKERS = {CONTROL: _control, DEPTH: _depth, MASKED: _masked, SIZES: _sizes}


def _flat(x: Any, name: str) -> Tensor:
    """Return numbers `(N, H, W)`, or `(H, W)`, with one channel, `(N, 1, H, W)`."""
    numbers = torch.as_tensor(as_array(x))
    if numbers.ndim not in (2, 3):
        raise UserError(f"{name} has shape (H, W), or (N, H, W) for several, not {tuple(numbers.shape)}")
    return numbers.reshape(-1, 1, *numbers.shape[-2:])


def _of_size(pictures: Tensor, size: tuple[int, int], name: str) -> Tensor:
    if tuple(pictures.shape[2:]) != size:
        here = " x ".join(map(str, pictures.shape[2:]))
        raise UserError(f"{name} is {here}, and the pictures are to be {size[0]} x {size[1]}: bring it to that")
    return pictures
