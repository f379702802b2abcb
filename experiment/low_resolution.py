"""Models that enlarge pictures: what they are told of the small ones beside what samples are asked to be."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from ml_collections import ConfigDict

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise, SampleNoise
from score_sde.data import Dataset
from score_sde.data.low_resolution import LOW_RESOLUTION, NOISE, clean, with_noise, with_random_noise


def read_larger(config: ConfigDict) -> ConfigDict:
    """Return the configuration by which pictures are read before they are brought to their size.

    Raises:
        UserError: they are to have no size, or one to which they cannot be brought evenly.
    """
    height, width, large = config.data.image_size, config.data.image_width, config.data.shrunk_from
    if height is None or large % height:
        raise UserError(f"pictures that are read {large} high are brought to a divisor of it, data.image_size={height}")
    config = copy.deepcopy(config)
    config.data.image_size = large
    config.data.image_width = None if width is None else width * large // height
    return config


def always_told(config: ConfigDict) -> tuple[str, ...]:
    """Return the names that are never hidden from a model of small pictures with noise; none of other models."""
    return (LOW_RESOLUTION, NOISE) if config.data.low_resolution_noise else ()


def with_noise_of_samples(
    config: ConfigDict, dataset: Dataset, condition: Condition | None, seeds: Sequence[int]
) -> Condition | None:
    """Return what samples are asked to be with noise in their small pictures, as the section `sampling` has it.

    Raises:
        UserError: the model was not trained on so much noise, or is told of noise that is there already.
    """
    std, most = config.sampling.low_resolution_noise, config.data.low_resolution_noise
    if condition is not None and NOISE in condition.values:
        largest = dataset.told({NOISE: clean(1) + most})[NOISE].to(condition.values[NOISE])
        if bool((condition.values[NOISE] > largest + 1e-4).any()):
            raise UserError(f"{NOISE} is more than the {most:g} that this model was trained with: take that or less")
    if not std:
        return condition
    if std > config.data.low_resolution_noise:
        raise UserError(
            f"sampling.low_resolution_noise={std:g}, and this model was trained with data.low_resolution_noise="
            f"{config.data.low_resolution_noise:g}: take that or less"
        )
    if condition is None or LOW_RESOLUTION not in condition.values:
        return condition
    none = dataset.told({NOISE: clean(len(condition))})[NOISE]
    if not torch.equal(condition.values[NOISE].to(none), none):
        raise UserError(
            f"the condition says what noise there is in the small pictures already: leave out {NOISE} there, or in the "
            "section sampling"
        )
    return with_noise(condition, dataset, torch.full((len(condition),), std), SampleNoise(seeds, "low_resolution"))


def with_noise_of_held_out(config: ConfigDict, dataset: Dataset, told: Condition | None) -> Condition | None:
    """Return what a model is told of held-out examples with noise as in training, the same each time."""
    if not config.data.low_resolution_noise or told is None or not len(told):
        return told
    source = BatchNoise(len(told), torch.Generator().manual_seed(config.seed))
    return with_random_noise(told, dataset, config.data.low_resolution_noise, source)


def without_the_rest(config: ConfigDict, condition: Condition | None) -> Condition | None:
    """Return what a model is always told of a condition, which guidance must not lead away from; None for nothing.

    Raises:
        UserError: guidance is asked for, and there is nothing else to guide to.
    """
    names, sampling = always_told(config), config.sampling
    if condition is None or not names or sampling.reference is not None or sampling.classifier is not None:
        return None
    if sampling.guidance != 1 and not set(condition.values) - set(names):
        raise UserError("guidance leads to what is asked for beside the small picture: a prompt, or a class")
    return Condition({name: condition.values[name] for name in names if name in condition.values})
