"""Likelihoods: densities of examples, given their classes or not, and the classifier that follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.distributed import say
from score_sde.common.errors import UserError, choose, naming
from score_sde.common.interruption import keeping
from score_sde.common.resumable import digest, remove_parts
from score_sde.data import Dataset
from score_sde.data.dataset import has_gaps
from score_sde.data.latent_units import Latents
from score_sde.evaluation.likelihood.bayes import Classified, log_class_shares, write_classified
from score_sde.evaluation.likelihood.bits_per_dim import Likelihoods, describe, summarise
from score_sde.evaluation.likelihood.dequantisation import density_time
from score_sde.evaluation.likelihood.measurement import Measurement
from score_sde.evaluation.likelihood.report import (
    check_likelihoods,
    measure_likelihoods,
    numbers_of,
    write_likelihoods,
)
from score_sde.evaluation.likelihood.through_decoder import KIND
from score_sde.experiment import build, density
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.conditions import is_class_conditional
from score_sde.experiment.controls import controls_of
from score_sde.experiment.dequantisation import learned_dequantiser
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.likelihood_tuning import likelihood_table
from score_sde.experiment.reconstructions import measure_reconstructions
from score_sde.experiment.settings import settings_of
from score_sde.experiment.variances import bound_with, variance_of
from score_sde.models import Given
from score_sde.models.autoencoder import Autoencoder
from score_sde.solvers.density.tuned import TUNED

# What a density is conditioned on, with what is added to the names of its files.
CONDITIONS = {"none": "", "own": "_given_class", "all": "_classes"}


# The settings that do not change the numbers.
_NO_SETTINGS = ("likelihood.batch_size", "likelihood.save_latents")
# Those that mean something for levels alone.
_OF_LEVELS = ("dequantisation", "flow_steps", "num_draws")

SPLITS = ("test", "validation", "train")


class Measured(NamedTuple):
    """What was measured, in words, and the files that hold it.

    Attributes:
        lines: the numbers, a line each.
        paths: the files that were written.
    """

    lines: list[str]
    paths: list[Path]


class _Job(NamedTuple):
    """A job says what is to be measured, what decides it, and where it is written.

    `condition` is the examples' own if it is asked for, `called` the names of their classes if they have any.
    """

    measurement: Measurement
    examples: Tensor
    condition: Condition | None
    called: list[str] | None
    seeds: list[int]
    about: dict[str, Any]
    folder: Path
    name: str

    def given(self, condition: Condition | None) -> _Job:
        """Return the job of measuring densities given this condition; for None, this one."""
        if condition is None:
            return self
        model = Given(self.measurement.model, condition.to(self.measurement.device))
        return self._replace(measurement=replace(self.measurement, model=model))

    def measure(self, unfinished: Path) -> Likelihoods:
        """Measure the densities; parts are kept in `unfinished` until all are there."""
        decisive = {key: value for key, value in self.about.items() if key != "settings"}
        settings = self.about["settings"]
        decisive |= {name: settings[name] for name in ("examples", "weights", "condition") if name in settings}
        size = self.about["batch_size"]
        return measure_likelihoods(self.measurement, self.examples, self.seeds, size, unfinished, decisive)

    def kept(self) -> str:
        """Say what is kept when a signal comes after all is measured, but before it is written."""
        return (
            f"stopped after all {len(self.examples)} examples, which are kept in {self.unfinished}; repeat the command "
            "to go on"
        )

    @property
    def unfinished(self) -> Path:
        """The folder in which parts are kept lies beside the files of the results."""
        return self.folder / f"{self.name}.unfinished"


def likelihood(experiment: Experiment) -> Measured | None:
    """Measure the likelihood of examples as the section `likelihood` has it, and write it; None on other processes.

    Raises:
        UserError: there are no such examples, the model has no such density, or a file cannot be written.
        Stopped: a signal came.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    if isinstance(model, Autoencoder):
        return Measured(*measure_reconstructions(experiment, model))
    settings = config.likelihood
    parts = {
        "test": (dataset.test, dataset.test_classes),
        "validation": (dataset.validation, dataset.validation_classes),
        "train": (dataset.train, dataset.train_classes),
    }
    examples, classes = choose("split", settings.split, parts)
    examples = examples[: settings.num_examples]
    name = settings.split + choose("condition likelihood.given", settings.given, CONDITIONS)
    if len(examples) == 0:
        raise UserError(f"there are no {settings.split} examples: see data.validation")
    classes_told = is_class_conditional(config) and classes is not None
    names = build.told_names(config, dataset)
    if settings.given != "none" and not (classes_told or (settings.given == "own" and names)):
        raise UserError(f"likelihood.given={settings.given} needs a model that knows classes: model.class_conditional")
    condition = None
    if settings.given != "none":
        condition = dataset.condition_of(settings.split, slice(len(examples)), classes_told, names)
    with naming("likelihood.given (own is what examples have)"):
        check_heard(config, dataset, condition, controls_of(experiment.model))

    gaps = has_gaps(examples)
    if gaps:
        _check_gaps(config, examples)
    elif settings.method == TUNED and dataset.has_gaps:
        raise UserError("likelihood.method=tuned is learned from whole training examples, and some lack numbers")
    measurement = make_measurement(experiment)
    if settings.given != "none" or gaps:
        # The bounds are on p(x) of whole examples, not on p(x | y).
        measurement = replace(measurement, bounds={})
    t_min = measurement.options["t_min"]
    told = settings.to_dict()
    kind = {"kind": KIND} if isinstance(dataset.units, Latents) else {}
    if kind:
        told = {name: value for name, value in told.items() if name not in ("dequantisation", "flow_steps")}
    elif dataset.levels is None:
        told = {name: value for name, value in told.items() if name not in _OF_LEVELS}
    about = {
        **told,
        **kind,
        "dataset": dataset.name,
        "checkpoint": str(experiment.path) if experiment.path else None,
        "seed": config.seed,
        "levels": dataset.levels,
        "t_min": model.sde.t_min if t_min is None else t_min,
        "settings": settings_of(
            config,
            ["likelihood"],
            model,
            experiment.path,
            _NO_SETTINGS,
            examples=digest(examples),
            **({} if condition is None else {"condition": digest(*condition.values.values())}),
        ),
    }
    job = _Job(
        measurement,
        examples,
        condition,
        dataset.named(None if classes is None else classes[: len(examples)]),
        list(range(config.seed, config.seed + len(examples))),
        about,
        experiment.folder / "likelihood",
        name,
    )
    table = measurement.options.get("table")
    if table is not None:
        about["held_out_error"] = table.held_out._asdict()
    measured = _classify(job, dataset) if settings.given == "all" else _measure(job, dataset)
    remove_parts(job.unfinished)
    return measured


def _check_gaps(config: ConfigDict, examples: Tensor) -> None:
    """See that the density of what is observed of examples is one that can be measured.

    Raises:
        UserError: nothing is observed of an example, or the section `likelihood` asks for whole ones.
    """
    settings = config.likelihood
    for key, value in {"given": "all", "method": TUNED, "prior": "data"}.items():
        if settings[key] == value:
            raise UserError(f"likelihood.{key}={value} is for whole examples, and some of these lack numbers")
    nothing = numbers_of(examples) == 0
    if bool(nothing.any()):
        raise UserError(f"nothing is observed of {settings.split} example {int(nothing.nonzero()[0])}: leave it out")


def make_measurement(experiment: Experiment) -> Measurement:
    """Make what measures densities of an experiment's model as the section `likelihood` has it, with its bounds.

    Raises:
        UserError: the model has no such density.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    settings, options = config.likelihood, density.likelihood_options(config, model.sde, dataset)
    dequantiser = density.make_dequantiser(config, model.sde, dataset, lambda: learned_dequantiser(experiment))
    options["t_min"] = density_time(dequantiser, settings.t_min)
    bounds = density.make_bounds(config, dataset, options["t_min"])
    if "discrete" in bounds:
        bounds["discrete"] = bound_with(variance_of(experiment, settings.variance), bounds["discrete"])
    if settings.method == TUNED:
        options.pop("num_steps", None)
        options["table"] = likelihood_table(experiment, dequantiser, options)
    # Without noise all draws are the same.
    num_draws = settings.num_draws if _is_noisy(dataset) else 1
    return Measurement(model, dequantiser, options, num_draws, bounds, distributed.device())


def _is_noisy(dataset: Dataset) -> bool:
    """Return whether what a model sees of an example is drawn: levels with noise, or latents."""
    return dataset.levels is not None or isinstance(dataset.units, Latents)


def _measure(job: _Job, dataset: Dataset) -> Measured | None:
    """Measure `p(x)`, or `p(x | y)` of each example's own condition, and write it."""
    job = job.given(job.condition)
    measured, settings = job.measure(job.unfinished), job.about
    if distributed.rank() > 0:
        return None
    with keeping(job.kept):
        checked = check_likelihoods(job.measurement, measured, job.examples, job.seeds, settings["num_checks"])
        summary = {
            **job.about,
            **summarise(measured, checked, settings["divergence"] == "exact", _is_noisy(dataset)),
        }
        if "kind" in summary:
            summary["log_prob_of_latents"] = measured.log_prob.mean().item()
        paths = write_likelihoods(
            measured, summary, dataset, job.examples, job.folder, job.name, settings["save_latents"], job.called
        )
    return Measured(describe(summary), paths)


def _classify(job: _Job, dataset: Dataset) -> Measured | None:
    """Measure `p(x | y)` for all classes, classify the examples by Bayes' rule, and write it."""
    assert job.condition is not None
    assert dataset.train_classes is not None
    classes = job.condition.values["class"]
    by_class = []
    for k in range(dataset.num_classes):
        say(f"class {dataset.class_names[k]}, {k + 1} of {dataset.num_classes}")
        told = Condition({**job.condition.values, "class": torch.full_like(classes, k)})
        measured = job.given(told).measure(job.unfinished / str(k))
        by_class.append((measured.log_prob - measured.log_q).mean(1))
    if distributed.rank() > 0:
        return None
    log_prior = log_class_shares(dataset.train_classes, dataset.num_classes)
    classified = Classified(
        torch.stack(by_class, 1), log_prior, classes, dataset.class_names, job.examples[0].numel(), dataset.levels
    )
    with keeping(job.kept):
        paths = write_classified(classified, job.about, job.folder, job.name)
    return Measured(classified.describe(), paths)
