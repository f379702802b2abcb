"""What an autoencoder is trained by: from the section `training` to its loss."""

from __future__ import annotations

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.data import Dataset
from score_sde.data.units import Bins, Points
from score_sde.models.networks.discriminator import PatchDiscriminator
from score_sde.training.adversary import Adversary
from score_sde.training.autoencoding import Autoencoding
from score_sde.training.perceptual import PerceptualDistance, read_perceptual

# The weights of terms that are there on request.
ON_REQUEST = ("perceptual_weight", "adversarial_weight")


def make_autoencoding(config: ConfigDict, dataset: Dataset) -> Autoencoding:
    """Make the loss of an autoencoder of these data, with those terms whose weights are not 0.

    Raises:
        UserError: a term is none for these data, or what it needs is not there.
    """
    training = config.training
    asked = [f"training.{name}" for name in ON_REQUEST if training[name]]
    if asked and isinstance(dataset.units, Bins):
        raise UserError(
            f"{asked[0]} compares examples as they are, without noise: --config.data.uniform_dequantisation=False"
        )
    if asked and training.shard:
        raise UserError(f"{asked[0]}: training.shard divides the autoencoder alone: --config.training.shard=False")
    return Autoencoding(
        training.rate_weight,
        _perceptual(config, dataset) if training.perceptual_weight else None,
        training.perceptual_weight,
        _adversary(config, dataset) if training.adversarial_weight else None,
        training.adversarial_weight,
    )


def _perceptual(config: ConfigDict, dataset: Dataset) -> PerceptualDistance:
    with naming("training.perceptual_weight"):
        if not dataset.is_image or dataset.shape[0] not in (1, 3) or not isinstance(dataset.units, Points):
            raise UserError(f"networks see pictures, grey or in colour, and {dataset.name} has {dataset.kind}")
        if config.training.perceptual_network is None:
            raise UserError("a network sees how far pictures are apart: --config.training.perceptual_network=FOLDER")
    with naming("training.perceptual_network"):
        place = config.training.perceptual_network
        return read_perceptual(place, dataset.shape, dataset.units.low, dataset.units.high)


def _adversary(config: ConfigDict, dataset: Dataset) -> Adversary:
    with naming("training.adversarial_weight"), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        discriminator = PatchDiscriminator(dataset.shape, config.model.channels)
    return Adversary(discriminator.to(distributed.device()), config.training)
