"""From a configuration to the objects it describes. No algorithm lives here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde.common.errors import UserError, choose, naming
from score_sde.common.files import at_home
from score_sde.common.part import PART
from score_sde.data import Dataset, arrays_dataset, load_dataset
from score_sde.data.captions import CAPTION, Words
from score_sde.data.conditions import conditions_of
from score_sde.data.dataset import has_gaps
from score_sde.data.edges import with_edges
from score_sde.data.embedded import Embedded
from score_sde.data.latent_units import Latents
from score_sde.data.low_resolution import shrunk, with_low_resolution
from score_sde.data.prompts import Prompts
from score_sde.data.units import Bins, units_of
from score_sde.experiment import own
from score_sde.experiment.autoencoders import make_autoencoder
from score_sde.experiment.couplings import why_no_score
from score_sde.experiment.joint_embedding import make_joint_embedding
from score_sde.experiment.low_resolution import always_told, read_larger
from score_sde.experiment.networks import (
    AUTOENCODERS,
    CLASSIFIERS,
    JOINT_EMBEDDING,
    PIPELINE,
    frozen_but_controls,
    make_network,
)
from score_sde.experiment.parts import is_told_of_parts, picture_of_part
from score_sde.models import FlowMap, GaussianMixture, NoisyClassifier, QuantisedModel, ScoreModel
from score_sde.models.autoencoder import Autoencoder
from score_sde.models.flow_map import KIND, UNTIL
from score_sde.models.gaussian_mixture import fit_mixture
from score_sde.models.joint_embedding import JointEmbedding
from score_sde.models.layers.condition import Always, Kind, Picture, Vector
from score_sde.models.layers.text import EmbeddedText, Text
from score_sde.models.learned_variance import LearnedVariance
from score_sde.sde import (
    SDE,
    VESDE,
    VPSDE,
    DDPMLadder,
    LearnedSDE,
    NCSNLadder,
    RectifiedFlow,
    SubVPSDE,
    cosine_betas,
    ddpm_betas,
    geometric_sigmas,
)

# What a model's steps have for a variance.
FIXED, LEARNED = VARIANCES = ("fixed", "learned")
# The name of data that were given from Python.
ARRAYS = "arrays"
# The name of the latents of published networks, which lie nowhere unless there is a path.
LATENTS = "latents"

AnyModel = ScoreModel | QuantisedModel | FlowMap | GaussianMixture
Trained = ScoreModel | QuantisedModel | FlowMap | NoisyClassifier | Autoencoder | JointEmbedding

SDES: dict[str, Callable[[ConfigDict], SDE]] = {
    "vp": lambda c: VPSDE(c.beta_min, c.beta_max),
    "subvp": lambda c: SubVPSDE(c.beta_min, c.beta_max),
    "ve": lambda c: VESDE(c.sigma_min, c.sigma_max),
    "rectified_flow": lambda c: RectifiedFlow(),
    "ddpm": lambda c: DDPMLadder(ddpm_betas(c.num_rungs, c.beta_min, c.beta_max)),
    "cosine": lambda c: DDPMLadder(cosine_betas(c.num_rungs)),
    "ncsn": lambda c: NCSNLadder(geometric_sigmas(c.num_rungs, c.sigma_min, c.sigma_max)),
    "learned": lambda c: LearnedSDE(c.log_snr_max, c.log_snr_min, c.learn_ends),
}


def make_dataset(config: ConfigDict, files_needed: bool = True) -> Dataset:
    """Make the data of the section `data`; without examples, if no files are needed and the shape is configured.

    Raises:
        UserError: the data do not exist, or do not have the configured shape.
    """
    data = config.data
    if data.shrunk_from is None:
        dataset = _dataset(config, files_needed)
    else:
        with naming("data.shrunk_from"):
            dataset = shrunk(_dataset(read_larger(config), files_needed), data.image_size)
    if data.low_resolution is not None:
        with naming("data.low_resolution"):
            dataset = with_low_resolution(dataset, data.low_resolution, data.low, data.high, data.low_resolution_noise)
    if data.edges is not None:
        with naming("data.edges"):
            dataset = with_edges(dataset, data.edges)
    return dataset


def _dataset(config: ConfigDict, files_needed: bool) -> Dataset:
    """Make the data as they come; arguments and errors as of `make_dataset`."""
    data = config.data
    shape = None
    if data.image_size is not None and data.num_channels is not None:
        shape = (data.num_channels, *_configured_size(data))
    if shape is not None and not files_needed:
        empty = torch.empty(0, *shape, dtype=torch.uint8)
        units = units_of(empty, data.levels, data.low, data.high, data.uniform_dequantisation)
        return Dataset(data.dataset, empty, empty, units, class_names=tuple(map(str, range(data.num_classes or 0))))
    if data.path is None and data.dataset == ARRAYS:
        raise UserError("these data were given from Python: give them again, or their file, --config.data.path=FILE")
    if lie_nowhere(config):
        raise UserError("latents are not among the data here: give a file of them, --config.data.path=FILE.npz")
    if data.path is None and own.is_own(data.dataset):
        return dataset_of_arrays(*_made_data(data.dataset), config)
    keys = set(inspect.signature(load_dataset).parameters) - {"name"}
    with naming("section data"):
        dataset = load_dataset(data.dataset, **{key: data[key] for key in keys})
    if data.image_size is not None and len(dataset.shape) != 3:
        size = " x ".join(map(str, dataset.shape))
        raise UserError(
            f"{dataset.name} has {dataset.kind} of {size} numbers, and this configuration is for pictures: --config "
            f"configs/vp/{dataset.kind}.py"
        )
    if data.image_size is not None:
        wanted = (data.num_channels or dataset.shape[0], *_configured_size(data))
        if dataset.shape != wanted:
            raise UserError(
                f"{dataset.name} has examples of shape {dataset.shape}, not {wanted}: mend --config.data.image_size"
            )
    if shape is not None and dataset.levels != data.levels:
        raise UserError(f"{dataset.name} has {dataset.levels} levels: --config.data.levels={dataset.levels}")
    return dataset


def lie_nowhere(config: ConfigDict) -> bool:
    """Return whether the data are latents of which no file is named."""
    return config.data.path is None and config.data.dataset == LATENTS


def dataset_of_arrays(x: Any, labels: Any, config: ConfigDict) -> Dataset:
    """Make a dataset of examples that are given, as the section `data` has it: an array, or what gives one by one.

    Raises:
        UserError: the examples cannot be read rightly.
    """
    data = config.data
    keys = set(inspect.signature(arrays_dataset).parameters) & set(data)
    name = data.dataset.partition(":")[2] or data.dataset
    with naming("section data"):
        return arrays_dataset(x, labels, name=name, **{key: data[key] for key in keys})


def _made_data(name: str) -> tuple[Any, Any]:
    """Return what the user's own function, or class, of this name makes: examples, and their classes, or None.

    It makes an array, a torch dataset or the like, or a pair, `(examples, classes)`.
    """
    thing = own.find("dataset", name)
    made = thing() if inspect.isfunction(thing) or inspect.isclass(thing) else thing
    return made if isinstance(made, tuple) and len(made) == 2 else (made, None)


def _configured_size(data: ConfigDict) -> tuple[int, int]:
    """Return height and width that the section `data` asks for; it must ask for a height."""
    return data.image_size, data.image_width or data.image_size


def make_sde(config: ConfigDict) -> SDE:
    """Make the forward process of the section `sde`."""
    if own.is_own(config.sde.name):
        return own.make("sde", config.sde.name, SDE, config.sde)  # type: ignore[type-abstract]
    make = choose("SDE", config.sde.name, SDES)
    with naming("section sde"):
        return make(config.sde)


def make_model(config: ConfigDict, dataset: Dataset) -> Trained:
    """Make the score model of the section `model`, for this dataset, with initial weights that depend on the seed; it
    knows the Gaussian that the data look like.

    Raises:
        UserError: the network does not exist or cannot take examples of this shape.
    """
    if config.model.network in AUTOENCODERS:
        return make_autoencoder(config, dataset)
    if config.model.network == JOINT_EMBEDDING:
        return make_joint_embedding(config, dataset)
    made = _new_model(config, dataset)
    trained = made.model if isinstance(made, FlowMap) else made
    trained.no_score = why_no_score(config)
    made.gaussian = dataset.gaussian
    return frozen_but_controls(made)


def _new_model(config: ConfigDict, dataset: Dataset) -> Trained:
    if config.model.network == PIPELINE:
        return _model_of_pipeline(config, dataset)
    sde, model = make_sde(config), config.model
    of_levels = model.prediction == "levels" and model.network not in CLASSIFIERS
    if of_levels and not dataset.is_image:
        raise UserError(f"prediction 'levels' is for images; for {dataset.name}: --config.model.prediction=velocity")
    if of_levels and isinstance(dataset.units, Latents):
        raise UserError("prediction 'levels' is for levels, and latents have none: --config.model.prediction=velocity")
    conditions = make_conditions(config, dataset)
    torch.manual_seed(config.seed)
    if model.network in CLASSIFIERS:
        classifier = make_network(config, dataset.model_shape, num_outputs=conditions["class"])
        return NoisyClassifier(classifier, sde, model.noise_label, model.data_std, model.scale_input)
    in_parts: dict[str, Kind] = {PART: picture_of_part(config, dataset)} if is_told_of_parts(config) else {}
    kinds: dict[str, Kind] = {
        **{name: Always(count) if _always_told(config, name) else count for name, count in conditions.items()},
        **{name: _kind(config, dataset, name) for name in told_names(config, dataset)},
        **in_parts,
        **({UNTIL: KIND} if model.flow_map else {}),
    }
    told: dict[str, Any] = {"conditions": kinds} if kinds else {}
    if model.variance == LEARNED and model.network not in CLASSIFIERS:
        if of_levels or model.flow_map:
            raise UserError(
                "model.variance=learned is for predictions of noise and the like, and no flow map: "
                "--config.model.prediction=noise --config.model.flow_map=False"
            )
        network = make_network(config, dataset.model_shape, out_channels=2 * dataset.model_shape[0], **told)
        with naming("model.variance=learned"):
            return LearnedVariance(network, sde, model.prediction, model.noise_label, model.data_std, model.scale_input)
    if not of_levels:
        network = make_network(config, dataset.model_shape, **told)
        plain = ScoreModel(network, sde, model.prediction, model.noise_label, model.data_std, model.scale_input)
        return FlowMap(plain) if model.flow_map else plain
    assert dataset.levels is not None
    network = make_network(config, dataset.model_shape, out_channels=dataset.levels * dataset.shape[0], **told)
    options = (model.noise_label, model.data_std, model.scale_input, isinstance(dataset.units, Bins))
    levels = QuantisedModel(network, sde, dataset.levels, dataset.quantised.low, dataset.quantised.high, *options)
    return FlowMap(levels) if model.flow_map else levels


def _always_told(config: ConfigDict, name: str) -> bool:
    """Return whether a network has no room for what is hidden: ADM's of published form, where classes never are, and
    small pictures with noise."""
    if name in always_told(config):
        return True
    return config.model.network == "adm" and name != "distorted" and config.training.label_dropout == 0


def _model_of_pipeline(config: ConfigDict, dataset: Dataset) -> ScoreModel:
    """Make the model of the pipeline that training began from, with its weights."""
    from score_sde.models.pretrained.diffusers import image_units, load_pipeline

    with naming("training.start_from"):
        if config.training.start_from is None:
            raise UserError("the network is that of a pipeline, and none is named")
        model = load_pipeline(at_home(config.training.start_from))
        shape, _, _ = image_units(model)
        if dataset.shape != shape:
            raise UserError(f"the pipeline is for images of shape {shape}, not {dataset.shape} like {dataset.name}")
    return model.requires_grad_(True)


def check_classes(config: ConfigDict, dataset: Dataset) -> None:
    """See that there are training examples of every class that other parts have, if the network is told of classes.

    Raises:
        UserError: there are none of a class; the line names it.
    """
    if dataset.train_classes is None or not knows_classes(config):
        return
    held_out = [classes for classes in (dataset.validation_classes, dataset.test_classes) if classes is not None]
    trained = set(dataset.train_classes.tolist())
    for k in sorted({k for classes in held_out for k in classes.tolist()} - trained):
        raise UserError(
            f"{dataset.name} has no training example of class {dataset.class_names[k]}: add some, take a smaller "
            "data.test_share and data.validation, or leave out model.class_conditional"
        )


def make_mixture(config: ConfigDict, dataset: Dataset) -> GaussianMixture:
    """Make a mixture of Gaussians fitted to the training part of the data, with its exact score.

    Raises:
        UserError: examples lack numbers, or there are too few for so many Gaussians.
    """
    if has_gaps(dataset.train):
        raise UserError("a mixture is fitted to whole examples, and some of these lack numbers: take model.network=mlp")
    data, count = dataset.encode_train(1, config.seed), config.model.num_components
    if count > len(data):
        raise UserError(f"model.num_components={count}, but there are only {len(data)} training examples")
    with naming("model.num_components"):
        return fit_mixture(make_sde(config), data, config.model.num_components, config.seed)


def make_conditions(config: ConfigDict, dataset: Dataset) -> dict[str, int]:
    """Return, by name, the number of values that the network is told of an example, or, as a classifier, is to tell.

    Raises:
        UserError: classes are wanted of data that have none, or distortion of vectors.
    """
    if config.data.distortion > 0 and not dataset.is_image:
        raise UserError("data.distortion is for images; for vectors: --config.data.distortion=0")
    if not knows_classes(config):
        return conditions_of(0, config.data.distortion > 0)
    if config.model.network in CLASSIFIERS and (config.data.distortion > 0 or config.model.class_conditional):
        raise UserError(
            "a classifier is told nothing: --config.data.distortion=0 (--config.data.augment=distort distorts all the "
            "same) and --config.model.class_conditional=False"
        )
    if not dataset.num_classes:
        raise UserError(
            f"{dataset.name} has no classes: leave out --config.model.class_conditional, or take other data"
        )
    return conditions_of(dataset.num_classes, config.data.distortion > 0)


def told_names(config: ConfigDict, dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the conditions, beside classes, that the network is told of."""
    if config.model.network == JOINT_EMBEDDING:
        return (CAPTION,)
    if config.model.network == PIPELINE:
        return tuple(name for name, units in dataset.condition_units.items() if isinstance(units, Prompts))
    return () if config.model.network in ("mixture", *CLASSIFIERS, *AUTOENCODERS) else tuple(dataset.condition_units)


def _kind(config: ConfigDict, dataset: Dataset, name: str) -> Kind:
    """Return what the network is told under the name of a condition of the data: a text, a vector, or a picture."""
    units = dataset.condition_units[name]
    if isinstance(units, Words):
        return Text(units.count, units.length)
    if isinstance(units, Embedded):
        return EmbeddedText(units.length, units.width)
    shape = units.told_shape(dataset.model_shape)
    if len(shape) == 1 or config.model.network == "mlp":
        return Vector(math.prod(shape), scales=True)
    return Picture(shape[0], may_be_hidden=not _always_told(config, name))


def knows_classes(config: ConfigDict) -> bool:
    """Return whether the model has to do with classes."""
    return config.model.class_conditional or config.model.network in CLASSIFIERS
