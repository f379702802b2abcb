"""Comparing solvers on an experiment's model, as the section `compare` has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.resumable import digest
from score_sde.common.score import NoScoreError, no_score
from score_sde.evaluation.comparison.compare import Comparison, compare
from score_sde.evaluation.comparison.contenders import runs_within
from score_sde.evaluation.comparison.report import write_report
from score_sde.experiment import conditions
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.controls import controls_of
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.prompts import led_away_from, number_of_prompts, prompted
from score_sde.experiment.settings import settings_for
from score_sde.experiment.solver import shared_options
from score_sde.experiment.tuning import tuned_tables
from score_sde.models.given import InTurn
from score_sde.solvers.base import Model
from score_sde.solvers.standard_normal import StandardNormal


def compare_solvers(experiment: Experiment) -> Comparison:
    """Draw samples by every solver and budget that the section `compare` names, and measure them; on one process."""
    config, settings, asked = experiment.config, experiment.config.compare, asked_in_turn(experiment)
    contenders: dict[str, dict[str, Any]] = {name: {} for name in _solvers_that_serve(experiment)}
    if "tuned" in contenders:
        with_prompts = config.sampling.prompt is not None
        contenders["tuned"]["path"] = tuned_tables(experiment, settings.budgets, with_prompts=with_prompts)
    dataset = experiment.dataset
    return compare(
        asked,
        experiment.dataset.model_shape,
        list(contenders.items()),
        settings.budgets,
        shared=shared_options(config.sampling),
        # Of a pipeline of latents there may be no examples: then solvers are compared with exact endpoints alone.
        dataset=dataset if len(dataset.test) or experiment.found is None or not experiment.found.pipeline else None,
        repetitions=range(config.seed, config.seed + settings.repetitions),
        num_samples=settings.num_samples,
        num_trajectories=settings.num_trajectories,
        batch_size=settings.batch_size,
        device=distributed.device(),
    )


def asked_in_turn(experiment: Experiment) -> Model:
    """Return the model of samples as the prompts of the section `sampling` ask for them, in turn, guided to them.

    Raises:
        UserError: samples are asked for otherwise, or the model was always told of more.
    """
    config, dataset = experiment.config, experiment.dataset
    count = number_of_prompts(config)
    for key in ("labels", "condition", "prior"):
        if config.sampling[key]:
            raise UserError(f"--mode compare draws samples of prompts, or of anything: leave out sampling.{key}")
    asked = prompted(config, dataset, count) if count else None
    with naming("--mode compare draws samples of prompts, or of anything"):
        check_heard(config, dataset, asked, controls_of(experiment.model))
    if asked is None:
        return experiment.model
    away = led_away_from(config, dataset, count)
    guides = conditions.find_guides(config, dataset, experiment.model.sde)
    return InTurn(conditions.make_guidance(config, experiment.model, asked, guides, away), count)


def _solvers_that_serve(experiment: Experiment) -> list[str]:
    """Return the names in the section `compare`, less those that need a score if the model has none, which is said."""
    settings, model = experiment.config.compare, experiment.model
    if not no_score(model):
        return list(settings.solvers)
    shared = shared_options(experiment.config.sampling)
    serving = []
    for name in settings.solvers:
        # Tables that are learnt here have no noise, as those of `default`.
        named = "default" if name == "tuned" else name
        solver = runs_within(named, {}, settings.budgets, model.sde, shared)[0].solver()
        try:
            solver(StandardNormal(model.sde, no_score(model)), torch.zeros(1, 1, dtype=torch.float64), seeds=[0])
            serving.append(name)
        except NoScoreError as error:
            distributed.say(f"left out of the comparison: {name}; {error}")
    if not serving:
        raise UserError("none of these solvers serves the model: compare.solvers=default,heun,ode")
    return serving


def write(experiment: Experiment, comparison: Comparison) -> list[Path]:
    """Write a comparison as tables and a picture; return the paths.

    Raises:
        UserError: a file cannot be written.
    """
    shared = {f"sampling.{name}": value for name, value in shared_options(experiment.config.sampling).items()}
    dataset, sampling = experiment.dataset, experiment.config.sampling
    if sampling.prompt is not None:
        told = ("prompt", "negative_prompt", *(name for name in sampling if name.startswith("guidance")))
        shared |= {f"sampling.{name}": sampling[name] for name in told}
    made_with = settings_for(experiment, ["compare"], test_examples=digest(dataset.test), **shared)
    return write_report(comparison, experiment.folder / "compare", dataset.name, made_with)
