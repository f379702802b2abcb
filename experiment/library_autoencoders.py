"""Autoencoders of the library diffusers as those of our own: units of pictures, and what checkpoints hold of them.

Where latents are uncertain, pictures have a bound on their likelihood by a distribution of levels around what is
decoded, of one width, under which training pictures are likeliest, given draws of their latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Dataset
from score_sde.data.latent_units import Latents
from score_sde.models.decoded import likeliest_width
from score_sde.models.pretrained.diffusers_autoencoder import KL, VQ, PictureAutoencoder, read_autoencoder
from score_sde.models.pretrained.diffusers_library import library, public
from score_sde.models.pretrained.diffusers_parts import network_of_settings

# The classes that are known, which is what `about` says of them.
CLASSES = (KL, VQ)
# The width is fitted to as many pictures, evenly spaced, as have so many numbers.
_NUMBERS_OF_WIDTH = 2**22


def latents_of_library(folder: Path, dataset: Dataset) -> Latents:
    """Return the latents of an autoencoder of the library, not scaled yet, with no width.

    Raises:
        UserError: there is no such autoencoder, or these are not pictures that it takes.
    """
    if not dataset.is_image:
        raise UserError(f"{folder} is of pictures, and {dataset.name} has {dataset.kind}")
    assert dataset.levels is not None
    autoencoder = read_autoencoder(folder, dataset.levels)
    channels = autoencoder.picture_channels
    if dataset.shape[0] != channels:
        raise UserError(
            f"{folder} is of pictures with {channels} channels, and {dataset.name} has {dataset.shape[0]}: pictures "
            f"from files are read so with --config.data.num_channels={channels}"
        )
    autoencoder.shape_of(dataset.shape)
    about = {
        "network": KL if not autoencoder.is_certain else VQ,
        "settings": public(dict(autoencoder.network.config)),
        "shape": list(dataset.shape),
        "levels": dataset.levels,
        "width": None,
    }
    return Latents(autoencoder.to(distributed.device()), autoencoder.pixels, about)


def autoencoder_of(about: Mapping[str, Any], where: str) -> PictureAutoencoder:
    """Make the autoencoder that `latents_of_library` tells of, with initial weights.

    Args:
        about: what it is made of, in plain values.
        where: the checkpoint that says so, for complaints.

    Raises:
        UserError: the library is not installed, or of another version.
    """
    network = network_of_settings(about["settings"], about["network"], library(), where)
    return PictureAutoencoder(network, about["levels"], about["width"])


def with_width(units: Latents, examples: Tensor, encoded: Tensor, seed: int) -> Latents:
    """Return latents with the width that they need for a bound; the same if their autoencoder has a distribution of
    its own, or none.

    Args:
        units: the latents.
        examples: training examples `(N, *shape)`.
        encoded: what `units.encoded` gave of them.
        seed: of the draws of latents.
    """
    autoencoder = units.autoencoder
    if not isinstance(autoencoder, PictureAutoencoder) or autoencoder.is_certain:
        return units
    every = -(-examples.numel() // _NUMBERS_OF_WIDTH)
    pictures, pixels = examples[::every], autoencoder.pixels
    mean, std = encoded[::every].unbind(1)
    z = mean + std * BatchNoise(len(mean), torch.Generator().manual_seed(seed)).normal(mean)
    x, decoded = pixels.encode(pictures), autoencoder.decode(z)
    width = likeliest_width(x, decoded, pixels.levels, pixels.place, pixels.spacing)
    told = PictureAutoencoder(autoencoder.network, pixels.levels, width)
    return replace(units, autoencoder=told, about={**units.about, "width": width})
