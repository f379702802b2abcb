"""Models that are told which part of an example is modelled, given which other (`common.part`), as `data` has them.

With `data.missing` examples may lack numbers, without levels; with `data.masks` they are whole, of any kind, and random
masks hide parts of them in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.common.part import CHANNELS
from score_sde.data import Batch, Dataset
from score_sde.data.masks import masked_part
from score_sde.data.parts import random_part
from score_sde.experiment import own
from score_sde.models.layers.condition import Picture

# Networks that lay pictures beside the states, and those of them that take examples of one axis or more as they are.
_BY_PICTURES = ("unet", "dit", "ncsnpp", "ddpm", "adm")


def is_told_of_parts(config: ConfigDict) -> bool:
    """Return whether a model is told which part of an example is modelled, given which other."""
    return config.data.missing or bool(kinds_of_masks(config))


def kinds_of_masks(config: ConfigDict) -> tuple[str, ...]:
    """Return the kinds of masks that hide parts of training examples."""
    return tuple(word.strip() for word in config.data.masks.split(",") if word.strip())


def untold(config: ConfigDict) -> ConfigDict:
    """Return the configuration of the same model that is told of whole examples alone."""
    return ConfigDict({**config.to_dict(), "data": {**config.data.to_dict(), "missing": False, "masks": ""}})


def check_parts(config: ConfigDict) -> None:
    """See that what is for models of parts stands together.

    Raises:
        UserError: it does not.
    """
    objective = config.training.objective
    if not is_told_of_parts(config):
        return
    key = "data.missing" if config.data.missing else "data.masks"
    if config.data.missing and kinds_of_masks(config):
        raise UserError("data.missing is for examples that lack numbers, and data.masks for whole ones: leave out one")
    if config.model.network not in ("mlp", *_BY_PICTURES) and not own.is_own(config.model.network):
        known = "mlp, unet and dit" if config.data.missing else f"mlp, {', '.join(_BY_PICTURES)}"
        raise UserError(f"{key} is for networks {known}, not {config.model.network}: --config.model.network=unet")
    if config.model.flow_map or (objective != "continuous" and objective != "discrete"):
        raise UserError(f"{key} needs training.objective=continuous, not {objective}, and no model.flow_map")


def picture_of_part(config: ConfigDict, dataset: Dataset) -> Picture:
    """Return how the network is told of the part of an example that is modelled, and what is given.

    Raises:
        UserError: data have levels, of which none may be missing.
    """
    if config.data.missing and dataset.levels is not None:
        raise UserError(
            f"data.missing is for numbers without levels, and {dataset.name} has {dataset.levels}; data.masks hides "
            "parts of them in training"
        )
    numbers = dataset.shape[0] if config.model.network in _BY_PICTURES else math.prod(dataset.shape)
    return Picture(CHANNELS * numbers)


def held_out_in_parts(config: ConfigDict, dataset: Dataset, held_out: Batch) -> Batch:
    """Return the held-out examples with the parts of which their loss is, the same each time."""
    if not is_told_of_parts(config) or not len(held_out):
        return held_out
    noise = BatchNoise(len(held_out), torch.Generator().manual_seed(config.seed))
    if config.data.missing:
        return held_out.in_part(random_part(held_out.x_0, noise))
    shown = dataset.units.encode(dataset.validation)
    return held_out.in_part(masked_part(shown, noise, kinds_of_masks(config)))


def shown_levels(config: ConfigDict, dataset: Dataset) -> Callable[[Tensor], Tensor] | None:
    """Return what a model is told of levels that are given: their middles; None of numbers without levels.

    Raises:
        UserError: the section `likelihood` has noise of another kind, whose density is not that of each level alone.
    """
    if dataset.levels is None:
        return None
    if config.likelihood.dequantisation != "uniform":
        raise UserError(
            "the density of some levels given others is measured with uniform noise: likelihood.dequantisation=uniform"
        )
    return dataset.units.encode
