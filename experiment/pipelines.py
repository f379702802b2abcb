"""Whole pipelines of diffusers as experiments: what they decide of a configuration, and the data that they are of.

Their data are latents, of which there are none here. Pictures stand before and behind them: `data.image_size` and
`data.image_width` are those of the pictures. Where pictures are edited, they are the data, and latents their units.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home
from score_sde.data import Dataset
from score_sde.data.captions import CAPTION
from score_sde.data.latent_units import Latents
from score_sde.data.prompts import Prompts
from score_sde.data.units import Standardised, units_of
from score_sde.evaluation.samples.draw import Samples
from score_sde.experiment import build
from score_sde.experiment.networks import PIPELINE
from score_sde.models import ScoreModel
from score_sde.models.pretrained.latent_pipelines import LatentPipeline

# Numbers that the weights of a pipeline's networks may be.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
# Pictures are large: so many are drawn, at once, unless others are asked for.
_NUM_SAMPLES = 4
_NUM_COMPARED = 16
# Edits are made by single steps, since those of several are unstable where something was observed; all of them from
# the noise of the strength on.
_SOLVER, _NUM_STEPS, _STRENGTH = "ddim", 20, 0.6
_LEVELS = 256


def values_of(pipeline: LatentPipeline) -> dict[str, Any]:
    """Return dotted keys and values of a configuration that a pipeline decides."""
    _, height, width = pipeline.shape
    return {
        "data.dataset": build.LATENTS,
        "data.image_size": height * pipeline.autoencoder.factor,
        **({} if width == height else {"data.image_width": width * pipeline.autoencoder.factor}),
        "data.num_channels": pipeline.autoencoder.picture_channels,
        "sde.name": PIPELINE,
        "model.class_conditional": pipeline.num_classes > 0,
        "model.network": PIPELINE,
        # What is not told is hidden, as it was now and then in training.
        "training.label_dropout": 0.1,
        "sampling.data_std": 1.0,
        "sampling.num_samples": _NUM_SAMPLES,
        "sampling.batch_size": _NUM_SAMPLES,
        "edit.solver": _SOLVER,
        "edit.num_steps": _NUM_STEPS,
        "edit.num_samples": 1,
        "edit.strength": _STRENGTH,
        "compare.num_samples": _NUM_COMPARED,
        "compare.num_trajectories": _NUM_COMPARED,
        "compare.batch_size": _NUM_SAMPLES,
    }


def dataset_of(pipeline: LatentPipeline, config: ConfigDict) -> Dataset:
    """Return the latents of pictures of the configured size, of which there are none, or those of a file.

    Raises:
        UserError: the pipeline makes no pictures of this size, or the file is of other latents.
    """
    told, names = _told(pipeline)
    if config.data.path is not None:
        return _latents_of_file(pipeline, config, names, told)
    height, width = _size(pipeline, config)
    factor = pipeline.autoencoder.factor
    empty = torch.empty(0, pipeline.shape[0], height // factor, width // factor)
    return Dataset(build.LATENTS, empty, empty, class_names=names, condition_units=told)


def pictures_of(pipeline: LatentPipeline, config: ConfigDict) -> Dataset:
    """Return pictures of the configured size, of which there are none, that are seen as latents.

    Raises:
        UserError: the pipeline makes no pictures of this size.
    """
    (told, names), autoencoder = _told(pipeline), pipeline.autoencoder
    shape = (autoencoder.picture_channels, *_size(pipeline, config))
    units = Latents(autoencoder, autoencoder.pixels, {"shape": list(shape)})
    empty = torch.empty(0, *shape, dtype=torch.uint8)
    return Dataset("pictures", empty, empty, units, class_names=names, condition_units=told)


def _told(pipeline: LatentPipeline) -> tuple[dict[str, Prompts], tuple[str, ...]]:
    """Return the units of what a pipeline is told, and what its classes are called."""
    told = {} if pipeline.prompts is None else {CAPTION: pipeline.prompts}
    return told, tuple(map(str, range(pipeline.num_classes)))


def _size(pipeline: LatentPipeline, config: ConfigDict) -> tuple[int, int]:
    """Return the configured height and width of pictures."""
    height, width = config.data.image_size, config.data.image_width or config.data.image_size
    _check_size(pipeline, height, width)
    return height, width


def _latents_of_file(
    pipeline: LatentPipeline, config: ConfigDict, names: tuple[str, ...], told: Mapping[str, Prompts]
) -> Dataset:
    """Return latents of a file, as they are, told of what the pipeline is."""
    own = copy.deepcopy(config)
    for key in ("image_size", "image_width", "num_channels"):
        own.data[key] = None
    dataset = build.make_dataset(own)
    if dataset.levels is not None or len(dataset.shape) != 3 or dataset.shape[0] != pipeline.shape[0]:
        raise UserError(
            f"{config.data.path} is not of latents (N, {pipeline.shape[0]}, h, w), but of {dataset.kind} of shape "
            f"{dataset.shape}: save those that encode gives"
        )
    _check_size(pipeline, *(side * pipeline.autoencoder.factor for side in dataset.shape[1:]))
    if dataset.num_classes and dataset.num_classes > len(names):
        raise UserError(f"{config.data.path} has {dataset.num_classes} classes, and the pipeline {len(names)}")
    return replace(dataset, units=Standardised(), class_names=names, condition_units=told, conditions={}, captions={})


def _check_size(pipeline: LatentPipeline, height: int, width: int) -> None:
    """See that a pipeline has latents of pictures of this size, and its network takes them."""
    multiple = pipeline.autoencoder.factor * pipeline.multiple
    if height % multiple or width % multiple:
        raise UserError(f"pictures of {height} x {width} have no latents: both must be multiples of {multiple}")


def as_pictures(pipeline: LatentPipeline, samples: Samples) -> tuple[Samples, Dataset]:
    """Return samples of latents as those of the pictures that they stand for, and the dataset of such pictures."""
    finite = samples.x.flatten(1).isfinite().all(1)
    levels = pipeline.autoencoder.pictures(torch.where(finite[:, None, None, None], samples.x, 0.0)).cpu()
    empty = levels[:0]
    units = units_of(empty, _LEVELS, -1.0, 1.0, as_bins=True)
    x = torch.where(finite[:, None, None, None], units.encode(levels), torch.nan)
    return samples._replace(x=x), Dataset("pictures", empty, empty, units)


def model_of(pipeline: LatentPipeline, config: ConfigDict) -> ScoreModel:
    """Return the model of a pipeline, all of whose parts have the precision, and the changes, that are configured.

    They are on the device, or are brought there as they are used.

    Raises:
        UserError: the changes are of another pipeline.
    """
    if config.model.lora is not None:
        with naming("model.lora"):
            pipeline.add_low_rank_changes(at_home(config.model.lora), config.model.lora_scale)
    pipeline.to(dtype=PRECISIONS[config.model.precision])
    if config.model.offload:
        pipeline.offload(distributed.device())
    else:
        pipeline.to(distributed.device())
    return pipeline.model
