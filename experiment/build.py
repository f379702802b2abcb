"""From a configuration to the objects it describes. No algorithm lives here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from score_sde.common.errors import UserError, choose, naming
from score_sde.data import Dataset, load_dataset
from score_sde.data.conditions import Labels
from score_sde.evaluation.likelihood.bounds import ExampleBound, bounds_of_points, bounds_with_noise
from score_sde.evaluation.likelihood.dequantisation import Dequantiser, TruncatedNormalDequantiser, UniformDequantiser
from score_sde.models import DDPM, MLP, Encoder, GaussianMixture, LevelModel, NCSNpp, NoisyClassifier, ScoreModel
from score_sde.models.gaussian_mixture import fit_mixture
from score_sde.models.layers.embeddings import NoiseEmbedding
from score_sde.sde import (
    SDE,
    VESDE,
    VPSDE,
    DDPMLadder,
    NCSNLadder,
    SubVPSDE,
    cosine_betas,
    ddpm_betas,
    geometric_sigmas,
)
from score_sde.sde.times import get_time_distribution
from score_sde.solvers import SOLVERS, get_solver
from score_sde.solvers.base import Solver
from score_sde.solvers.density.likelihood import log_likelihood, matched_prior
from score_sde.solvers.fast.thresholding import Threshold, dynamic_threshold, static_threshold
from score_sde.training.classification import Classification
from score_sde.training.objectives import Objective, get_discrete_objective, get_objective

AnyModel = ScoreModel | LevelModel | GaussianMixture
Trained = ScoreModel | LevelModel | NoisyClassifier

SDES: dict[str, Callable[[ConfigDict], SDE]] = {
    "vp": lambda c: VPSDE(c.beta_min, c.beta_max),
    "subvp": lambda c: SubVPSDE(c.beta_min, c.beta_max),
    "ve": lambda c: VESDE(c.sigma_min, c.sigma_max),
    "ddpm": lambda c: DDPMLadder(ddpm_betas(c.num_rungs, c.beta_min, c.beta_max)),
    "cosine": lambda c: DDPMLadder(cosine_betas(c.num_rungs)),
    "ncsn": lambda c: NCSNLadder(geometric_sigmas(c.num_rungs, c.sigma_min, c.sigma_max)),
}
NETWORKS: dict[str, type[nn.Module]] = {"ncsnpp": NCSNpp, "ddpm": DDPM, "mlp": MLP, "classifier": Encoder}

THRESHOLDS: dict[str, Callable[[float, float], Threshold]] = {"static": static_threshold, "dynamic": dynamic_threshold}

PRIORS: dict[str, Callable[[SDE, Dataset], Any]] = {
    "standard": lambda sde, dataset: None,
    "data": lambda sde, dataset: matched_prior(sde, *dataset.mean_and_variance()),
}
DEQUANTISATIONS = ("uniform", "truncated_normal", "variational")

# Of the options of solvers, those that are about the model.
_SHARED_OPTIONS = ("t_min", "data_std")

# Of the section `sampling`, what is not an option of the solver.
_NOT_OPTIONS = (
    "solver",
    "num_samples",
    "batch_size",
    "labels",
    "guidance",
    "guidance_interval",
    "classifier",
    "metrics",
    "inception",
)


def make_dataset(config: ConfigDict, files_needed: bool = True) -> Dataset:
    """The data of the section `data`; without examples, if no files are needed and the shape is configured.

    Raises:
        UserError: the data do not exist, or do not have the configured shape.
    """
    data = config.data
    if not data.low < data.high:
        raise UserError(f"data.low={data.low:g} must lie below data.high={data.high:g}")
    shape = None
    if data.image_size is not None and data.num_channels is not None:
        shape = (data.num_channels, data.image_size, data.image_size)
    if shape is not None and not files_needed:
        empty = torch.empty(0, *shape, dtype=torch.uint8)
        return Dataset(data.dataset, empty, empty, data.levels, data.low, data.high)
    keys = set(inspect.signature(load_dataset).parameters) - {"name"}
    dataset = load_dataset(data.dataset, **{key: data[key] for key in keys})
    if data.image_size is not None and len(dataset.shape) == 1:
        raise UserError(
            f"{dataset.name} has vectors of {dataset.shape[0]} numbers, and this configuration is for pictures: "
            "--config configs/vp/vectors.py"
        )
    if data.image_size is not None:
        wanted = (data.num_channels or dataset.shape[0], data.image_size, data.image_size)
        if dataset.shape != wanted:
            raise UserError(
                f"{dataset.name} has examples of shape {dataset.shape}, not {wanted}: mend --config.data.image_size"
            )
    if shape is not None and dataset.levels != data.levels:
        raise UserError(f"{dataset.name} has {dataset.levels} levels: --config.data.levels={dataset.levels}")
    return dataset


def make_sde(config: ConfigDict) -> SDE:
    """The forward process of the section `sde`."""
    return choose("SDE", config.sde.name, SDES)(config.sde)


def make_model(config: ConfigDict, dataset: Dataset) -> Trained:
    """The score model of the section `model`, for such data, with initial weights that depend on the seed.

    Raises:
        UserError: the network does not exist or cannot take such examples.
    """
    sde, model = make_sde(config), config.model
    of_levels = model.prediction == "levels" and model.network != "classifier"
    if of_levels and not dataset.is_image:
        raise UserError(f"prediction 'levels' is for images; for {dataset.name}: --config.model.prediction=velocity")
    labels = make_labels(config, dataset)
    torch.manual_seed(config.seed)
    if model.network == "classifier":
        classifier = make_network(config, dataset.shape, num_outputs=labels.num_classes)
        return NoisyClassifier(classifier, sde, model.labels, model.data_std, model.scale_input)
    if not of_levels:
        network = _make_told_network(config, dataset.shape, labels)
        return ScoreModel(network, sde, model.prediction, model.labels, model.data_std, model.scale_input)
    assert dataset.levels is not None
    network = _make_told_network(config, dataset.shape, labels, out_channels=dataset.levels * dataset.shape[0])
    options = (model.labels, model.data_std, model.scale_input, config.data.uniform_dequantisation)
    return LevelModel(network, sde, dataset.levels, dataset.low, dataset.high, *options)


def check_classes(config: ConfigDict, dataset: Dataset) -> None:
    """See that there are training examples of every class that other parts have, if the network is told of classes.

    Raises:
        UserError: of a class, named, there are none.
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


def in_model_units(config: ConfigDict, dataset: Dataset, examples: Tensor) -> Tensor:
    """Examples as the model is to see them: with uniform noise, the same each time, or as points."""
    if config.data.uniform_dequantisation:
        return dataset.dequantise(examples, torch.Generator().manual_seed(config.seed))
    return dataset.stretch(examples)


def make_mixture(config: ConfigDict, dataset: Dataset) -> GaussianMixture:
    """A mixture of Gaussians fitted to the training part of the data, with its exact score."""
    data, count = in_model_units(config, dataset, dataset.train), config.model.num_components
    if count > len(data):
        raise UserError(f"model.num_components={count}, but there are only {len(data)} training examples")
    return fit_mixture(make_sde(config), data, config.model.num_components, config.seed)


def make_labels(config: ConfigDict, dataset: Dataset) -> Labels:
    """What the network is told of an example, or, if it is a classifier, is to tell.

    Raises:
        UserError: classes are wanted of data without, or distortion of vectors.
    """
    if config.data.distortion > 0 and not dataset.is_image:
        raise UserError("data.distortion is for images; for vectors: --config.data.distortion=0")
    if not knows_classes(config):
        return Labels(0, config.data.distortion > 0)
    if config.model.network == "classifier" and (config.data.distortion > 0 or config.model.class_conditional):
        raise UserError(
            "a classifier is told nothing: --config.data.distortion=0 (--config.data.augment=distort distorts all the "
            "same) and --config.model.class_conditional=False"
        )
    if not dataset.num_classes:
        raise UserError(
            f"{dataset.name} has no classes: leave out --config.model.class_conditional, or take other data"
        )
    return Labels(dataset.num_classes, config.data.distortion > 0)


def knows_classes(config: ConfigDict) -> bool:
    """Whether the model has to do with classes."""
    return config.model.class_conditional or config.model.network == "classifier"


def make_objective(config: ConfigDict, sde: SDE) -> Objective | Classification:
    """The loss of the section `training`."""
    training = config.training
    if config.model.network == "classifier":
        edm = (training.edm_mean, training.edm_std)
        levels = get_time_distribution(training.noise_levels, sde, training.t_min, *edm)
        return Classification(levels, training.stratified)
    return choose("objective", training.objective, OBJECTIVES)(config, sde)


def _discrete_objective(config: ConfigDict, sde: SDE) -> Objective:
    training = config.training
    return get_discrete_objective(
        sde,
        stratified=training.stratified,
        reduce_mean=training.reduce_mean,
    )


def _continuous_objective(config: ConfigDict, sde: SDE) -> Objective:
    training = config.training
    return get_objective(
        sde,
        weighting=training.weighting,
        noise_levels=training.noise_levels,
        t_min=training.t_min,
        stratified=training.stratified,
        reduce_mean=training.reduce_mean,
        edm_mean=training.edm_mean,
        edm_std=training.edm_std,
        data_std=config.model.data_std,
    )


OBJECTIVES: dict[str, Callable[[ConfigDict, SDE], Objective]] = {
    "discrete": _discrete_objective,
    "continuous": _continuous_objective,
}


def make_solver(config: ConfigDict, default_steps: int = 20, **more: Any) -> Solver:
    """The solver of the section `sampling`, with those options that are given and that it has, and `more`.

    Those that need a number of steps have `default_steps`, unless it is given.
    """
    sampling = config.sampling
    ignored = ignored_options(config)
    options = {name: value for name, value in solver_options(config).items() if name not in ignored}
    known = inspect.signature(SOLVERS[sampling.solver]).parameters
    if "num_steps" in known and known["num_steps"].default is inspect.Parameter.empty:
        options.setdefault("num_steps", default_steps)
    return get_solver(sampling.solver, **options, **more)


def ignored_options(config: ConfigDict) -> set[str]:
    """Those options given in the section `sampling` that its solver does not have."""
    known = inspect.signature(choose("solver", config.sampling.solver, SOLVERS)).parameters
    return set(solver_options(config)) - set(known)


def solver_options(config: ConfigDict) -> dict[str, Any]:
    """The options for solvers that the section `sampling` gives."""
    given = {name: value for name, value in config.sampling.items() if name not in _NOT_OPTIONS and value is not None}
    options = _read_texts(given)
    if "threshold" in options:
        threshold = choose("threshold", options["threshold"], THRESHOLDS)
        options["threshold"] = threshold(config.data.low, config.data.high)
    return options


def shared_options(sampling: ConfigDict) -> dict[str, Any]:
    """Those options given in the section `sampling` that are about the model, not about one solver."""
    return {name: sampling[name] for name in _SHARED_OPTIONS if sampling[name] is not None}


def likelihood_options(config: ConfigDict, sde: SDE, dataset: Dataset) -> dict[str, Any]:
    """The options for `solvers.log_likelihood` that the section `likelihood` gives, under this process."""
    prior = choose("prior", config.likelihood.prior, PRIORS)(sde, dataset)
    return given_likelihood_options(config) | {"prior": prior}


def given_likelihood_options(config: ConfigDict) -> dict[str, Any]:
    """The same, but for the prior, which takes the data."""
    known = set(inspect.signature(log_likelihood).parameters) - {"prior"}
    given = {name: value for name, value in config.likelihood.items() if name in known and value is not None}
    return _read_texts(given)


def make_dequantiser(
    config: ConfigDict, sde: SDE, dataset: Dataset, learn: Callable[[], Dequantiser]
) -> Dequantiser | None:
    """How the section `likelihood` gives levels a density; None for vectors, which have one.

    `learn` is called for variational dequantisation.

    Raises:
        UserError: the model is one of levels as points, and its density is asked for on bins. (Others, as the published
            ones of 256 levels, may be trained on points and measured on bins.)
    """
    if dataset.levels is None:
        return None
    name = config.likelihood.dequantisation
    of_points = config.model.prediction == "levels" and not config.data.uniform_dequantisation
    if of_points and name in ("uniform", "variational"):
        raise UserError(
            f"likelihood.dequantisation={name} is for models of dequantised data, and data.uniform_dequantisation is "
            "False: use truncated_normal"
        )
    place, spacing = _places(config, dataset)
    kinds: dict[str, Callable[[], Dequantiser]] = {
        "uniform": lambda: UniformDequantiser(dataset.low, dataset.bin_width),
        "truncated_normal": lambda: TruncatedNormalDequantiser(sde, place, spacing),
        "variational": learn,
    }
    return choose("dequantisation", name, kinds)()


def make_bounds(config: ConfigDict, dataset: Dataset, t_min: float | None) -> dict[str, ExampleBound]:
    """The variational bounds that the section `likelihood` asks for.

    They are on what the density is one of: levels with noise; or, where truncated normal noise stands for the
    process's own, the levels themselves.
    """
    settings = config.likelihood
    calls, rungs = settings.bound_calls, settings.num_rungs
    if dataset.levels is not None and settings.dequantisation == "truncated_normal":
        known = bounds_of_points(*_places(config, dataset), dataset.levels, calls, rungs, t_min)
    else:
        known = bounds_with_noise(calls, rungs, t_min)
    return {name: choose("bound", name, known) for name in settings.bounds}


def _places(config: ConfigDict, dataset: Dataset) -> tuple[float, float]:
    """Where the model has level 0, and how far from it level 1: points, or the middles of bins."""
    if config.data.uniform_dequantisation or dataset.levels is None:
        return dataset.low + dataset.bin_width / 2, dataset.bin_width
    return dataset.low, (dataset.high - dataset.low) / (dataset.levels - 1)


def make_network(config: ConfigDict, shape: tuple[int, ...], **more: Any) -> nn.Module:
    """The network of the section `model`, for examples of this shape; `more` arguments for it.

    Raises:
        UserError: it does not exist or cannot take such examples.
    """
    model = config.model
    if model.network == "mixture":
        raise UserError("a mixture needs no training: use it with --mode sample, likelihood or compare")
    network = choose("network", model.network, NETWORKS)
    known = inspect.signature(network).parameters
    options = {name: value for name, value in model.items() if name in known} | more
    if "image_size" not in known:
        unknown = set(more) - set(known)
        if unknown:
            raise UserError(
                f"network {model.network!r} cannot have {', '.join(unknown)}: use --config.model.network=ncsnpp"
            )
        return network(torch.Size(shape).numel(), **options)
    if len(shape) != 3:
        raise UserError(
            f"network {model.network!r} takes images, not vectors of {shape[0]} numbers; use --config "
            "configs/vp/vectors.py, or --config.model.network=mlp"
        )
    if options.get("embedding") == "fourier" and model.labels in ("log_snr", "edm"):
        raise UserError(f"a Fourier embedding takes a label's logarithm, not model.labels={model.labels}: use rho")
    channels, height, width = shape
    if height != width:
        raise UserError(f"network {model.network!r} takes square images, not {height} x {width}")
    if model.scale_by_sigma and model.labels == "level":
        # Labels count from the noisiest level.
        options["sigmas"] = geometric_sigmas(config.sde.num_rungs, config.sde.sigma_min, config.sde.sigma_max).flip(0)
    with naming("section model"):
        return network(height, channels, **options)


def unused_attention(config: ConfigDict, dataset: Dataset) -> str:
    """A word on attention that is asked for at sizes which the network does not have; empty if there is none."""
    model, size = config.model, dataset.shape[-1]
    if "attention_resolutions" not in inspect.signature(NETWORKS[model.network]).parameters:
        return ""
    sizes = [size // 2**level for level in range(len(model.channel_multipliers))]
    unused = [str(asked) for asked in model.attention_resolutions if asked not in sizes]
    return f"model.attention_resolutions: no {', '.join(unused)} among this network's sizes {sizes}" if unused else ""


def _make_told_network(config: ConfigDict, shape: tuple[int, ...], labels: Labels, **more: Any) -> nn.Module:
    """The network of the section `model` with a vector for each of these labels, if they say anything.

    A distorted class starts with the vector of its class, and so distortion without a class with that of neither, zero:
    what a distorted picture tells of its class counts for others from the start.
    """
    if not labels.none:
        return make_network(config, shape, **more)
    network = make_network(config, shape, num_classes=labels.none, **more)
    assert isinstance(network.embedding, NoiseEmbedding)
    vectors = network.embedding.class_vectors.weight
    with torch.no_grad():
        vectors.copy_(vectors[labels.undistorted])
    return network


def _read_texts(options: dict[str, Any]) -> dict[str, Any]:
    """Options of solvers, with those that are written as text read: a list of times, and torchdiffeq's `options`."""
    readers: dict[str, Callable[[str], Any]] = {"grid": read_grid, "options": read_options}
    return {name: readers[name](value) if name in readers else value for name, value in options.items()}


def read_grid(text: str) -> str | list[float]:
    """A grid's name, or its times."""
    if text[:1].isalpha():
        return text
    try:
        return [float(time) for time in text.strip("[]() ").split(",")]
    except ValueError:
        raise UserError(f"a grid is a name or a list of times such as 1.0,0.5,0.001, not {text!r}") from None


def read_options(text: str) -> dict[str, str | float]:
    """`first_step=0.01,solver=LSODA` as a dictionary; numbers are read."""
    options: dict[str, str | float] = {}
    for item in text.split(","):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not (name and equals and value):
            raise UserError(f"options are written NAME=VALUE,NAME=VALUE, such as first_step=0.01, not {text!r}")
        try:
            options[name] = int(value) if value.isdigit() else float(value)
        except ValueError:
            options[name] = value
    return options
