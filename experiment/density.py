"""From the section `likelihood` of a configuration to how densities are found: options, dequantisation, bounds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from score_sde.common.errors import UserError, choose
from score_sde.data import Dataset
from score_sde.data.latent_units import Latents
from score_sde.data.units import Points, Standardised
from score_sde.evaluation.likelihood.bounds import ExampleBound, bounds_of_points, bounds_with_noise
from score_sde.evaluation.likelihood.dequantisation import (
    Dequantiser,
    TruncatedNormalDequantiser,
    UniformDequantiser,
    WithoutLevels,
)
from score_sde.evaluation.likelihood.through_decoder import ThroughDecoder
from score_sde.experiment.couplings import why_no_score
from score_sde.experiment.texts import read_texts
from score_sde.sde import SDE
from score_sde.solvers.density.likelihood import log_likelihood, matched_prior

PRIORS: dict[str, Callable[[SDE, Dataset], Any]] = {
    "standard": lambda sde, dataset: None,
    "data": lambda sde, dataset: matched_prior(sde, *dataset.units.moments(dataset.train)),
}
DEQUANTISATIONS = ("uniform", "truncated_normal", "variational")


def likelihood_options(config: ConfigDict, sde: SDE, dataset: Dataset) -> dict[str, Any]:
    """Return the options for `solvers.log_likelihood` that the section `likelihood` gives, under this process."""
    make_prior = choose("prior", config.likelihood.prior, PRIORS)
    if config.likelihood.prior == "data" and not len(dataset.train):
        raise UserError("likelihood.prior=data needs the training data, which are not at hand: take standard")
    prior = make_prior(sde, dataset)
    return given_likelihood_options(config) | {"prior": prior}


def given_likelihood_options(config: ConfigDict) -> dict[str, Any]:
    """Return the options that the section `likelihood` gives, but for the prior, for which data are needed."""
    known = set(inspect.signature(log_likelihood).parameters) - {"prior"}
    given = {name: value for name, value in config.likelihood.items() if name in known and value is not None}
    return read_texts(given)


def make_dequantiser(config: ConfigDict, sde: SDE, dataset: Dataset, learn: Callable[[], Dequantiser]) -> Dequantiser:
    """Make the dequantiser by which the section `likelihood` gives levels a density; other numbers have one.

    `learn` is called for variational dequantisation.

    Raises:
        UserError: the model is one of levels as points, and its density is asked for on bins. (Others, as the published
            ones of 256 levels, may be trained on points and measured on bins.)
    """
    if isinstance(dataset.units, Latents):
        return ThroughDecoder(dataset.units)
    if isinstance(dataset.units, Standardised):
        return WithoutLevels(dataset.units)
    name = config.likelihood.dequantisation
    of_points = config.model.prediction == "levels" and isinstance(dataset.units, Points)
    if of_points and name in ("uniform", "variational"):
        raise UserError(
            f"likelihood.dequantisation={name} is for models of dequantised data, and data.uniform_dequantisation is "
            "False: use truncated_normal"
        )
    kinds: dict[str, Callable[[], Dequantiser]] = {
        "uniform": lambda: UniformDequantiser(dataset.quantised.bins),
        "truncated_normal": lambda: TruncatedNormalDequantiser(sde, dataset.quantised),
        "variational": learn,
    }
    return choose("dequantisation", name, kinds)()


def make_bounds(config: ConfigDict, dataset: Dataset, t_min: float | None) -> dict[str, ExampleBound]:
    """Make the variational bounds that the section `likelihood` asks for, by name.

    They bound the density of levels with noise; or, where truncated normal noise stands for the process's own, the
    probability of the levels themselves. A model that is a flow and no score has none.
    """
    settings = config.likelihood
    calls, rungs = settings.bound_calls, settings.num_rungs
    of_levels = dataset.levels is not None and not isinstance(dataset.units, Latents)
    if of_levels and settings.dequantisation == "truncated_normal":
        known = bounds_of_points(dataset.quantised, calls, rungs, t_min)
    else:
        known = bounds_with_noise(calls, rungs, t_min)
    chosen = {name: choose("bound", name, known) for name in settings.bounds}
    return {} if why_no_score(config) else chosen
