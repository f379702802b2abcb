"""Autoencoders: from a configuration, or from what a checkpoint says of one, to the module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.weight_files import load_weights
from score_sde.data import Dataset
from score_sde.data.dataset import is_of_latents
from score_sde.data.units import Bins, Points
from score_sde.evaluation.samples.draw import as_array
from score_sde.experiment import library_autoencoders
from score_sde.experiment.networks import KL, closed_axes
from score_sde.models.autoencoder import Autoencoder, KLAutoencoder, VQAutoencoder
from score_sde.models.decoded import Logistic, Normal
from score_sde.models.layers.space import Space
from score_sde.models.networks.autoencoder import ConvDecoder, ConvEncoder
from score_sde.training.logs import Preview

# So many pairs are shown.
_NUM_SHOWN = 18


def about_autoencoder(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Return what an autoencoder of the section `model` is made of, for these data, in plain values.

    Raises:
        UserError: the data are none that it takes.
    """
    model, (channels, *size) = config.model, dataset.shape
    if not 1 <= len(size) <= 3:
        raise UserError(f"an autoencoder takes series, images, fields and volumes, and {dataset.name} has vectors")
    if dataset.has_gaps:
        raise UserError(f"an autoencoder is for whole examples, and some of {dataset.name} lack numbers")
    units = dataset.units
    levels = [units.levels, units.place, units.spacing] if isinstance(units, Bins | Points) else None
    return {
        "network": model.network,
        "shape": [channels, *size],
        "levels": levels,
        "latent_channels": model.latent_channels,
        "num_codes": model.num_codes,
        "commitment": config.training.commitment,
        "channels": model.channels,
        "channel_multipliers": list(model.channel_multipliers),
        "num_blocks": model.num_blocks,
        "dropout": model.dropout,
        "periodic": list(closed_axes(model.periodic, len(size))),
    }


def autoencoder_of(about: Mapping[str, Any]) -> Autoencoder:
    """Make the autoencoder that `about_autoencoder` tells of, with initial weights.

    Raises:
        UserError: the sizes of examples cannot be divided as it divides them.
    """
    shape, multipliers = tuple(about["shape"]), about["channel_multipliers"]
    latent, is_kl = about["latent_channels"], about["network"] == KL
    space = Space(tuple(about["periodic"]))
    sizes = (space, about["channels"], multipliers, about["num_blocks"], about["dropout"])
    decoded = Normal() if about["levels"] is None else Logistic(*about["levels"])
    encoder = ConvEncoder(shape[0], 2 * latent if is_kl else latent, *sizes)
    decoder = ConvDecoder(latent, shape[0], *sizes)
    factor = 2 ** (len(multipliers) - 1)
    made: Autoencoder
    if is_kl:
        made = KLAutoencoder(encoder, decoder, decoded, factor, latent)
    else:
        codes = (about["num_codes"], about["commitment"])
        made = VQAutoencoder(encoder, decoder, decoded, factor, latent, *codes)
    with naming("section model"):
        made.shape_of(shape)
    return made


def make_autoencoder(config: ConfigDict, dataset: Dataset) -> Autoencoder:
    """Make the autoencoder of the section `model` for these data, with initial weights that depend on the seed."""
    torch.manual_seed(config.seed)
    return autoencoder_of(about_autoencoder(config, dataset))


def shown_reconstructions(dataset: Dataset) -> Callable[[Autoencoder], Preview]:
    """Return a function that shows held-out examples, or else training examples, and what an autoencoder makes of them.

    Pictures stand in pairs, the example first; others beside each other.
    """
    examples = next((part for part in (dataset.validation, dataset.test) if len(part)), dataset.train)[:_NUM_SHOWN]

    def draw(model: Autoencoder) -> Preview:
        x = dataset.units.encode(examples).to(next(model.parameters()).device)
        with torch.no_grad():
            found = model.reconstruct(x)
        if not dataset.is_image:
            return Preview(dataset.kind, as_array(found.cpu(), dataset), as_array(x.cpu(), dataset))
        return Preview(dataset.kind, as_array(torch.stack([x, found], 1).flatten(0, 1).cpu(), dataset))

    return draw


def written(description: dict[str, Any]) -> dict[str, Any]:
    """Return the description of data as checkpoints hold it: of an autoencoder they have the weights."""
    units = description["units"]
    if not is_of_latents(units):
        return description
    return {**description, "units": {**units, "autoencoder": units["autoencoder"].state_dict()}}


def read(description: dict[str, Any] | None, where: str) -> dict[str, Any] | None:
    """Return the description of data that a checkpoint holds, with the autoencoder itself, if there is one.

    Args:
        description: what `written` returned; None for None.
        where: the checkpoint, for the complaint.

    Raises:
        UserError: the weights are not those of the autoencoder.
    """
    units = None if description is None else description.get("units")
    if description is None or units is None or not is_of_latents(units):
        return description
    about = units["about"]
    of_library = about["network"] in library_autoencoders.CLASSES
    autoencoder: nn.Module = library_autoencoders.autoencoder_of(about, where) if of_library else autoencoder_of(about)
    load_weights(autoencoder, units["autoencoder"], f"the autoencoder in {where}")
    autoencoder = autoencoder.to(distributed.device()).eval().requires_grad_(False)
    return {**description, "units": {**units, "autoencoder": autoencoder}}
