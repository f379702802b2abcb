"""Editing: examples completed, coloured, enlarged, sharpened, redrawn, blended, or taken to their latents and back.

Answer `j` of `K` to input `i` has the seed `config.seed + i K + j`, and depends on it alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.condition import joined
from score_sde.common.errors import UserError, choose, naming
from score_sde.control import Masked, Observation, noised
from score_sde.control.inverse_problems import answer
from score_sde.evaluation.samples.edits import Edit, write_edit
from score_sde.experiment import conditions
from score_sde.experiment.asked import asked_of
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.controls import controls_of
from score_sde.experiment.edit_inputs import TEST, num_answers
from score_sde.experiment.edit_tasks import TASKS
from score_sde.experiment.editor import Editor
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.inpainting import TRAINED, method_of, model_of_part
from score_sde.experiment.low_resolution import with_noise_of_samples, without_the_rest
from score_sde.experiment.pipeline_edits import filling_in_of
from score_sde.experiment.prompts import led_away_from
from score_sde.experiment.settings import settings_for
from score_sde.experiment.solver import chooses_steps
from score_sde.experiment.tuning import solver_for
from score_sde.experiment.upscaling import UPSCALE, told_small
from score_sde.solvers import Model
from score_sde.solvers.base import Solver

# Tasks that go along the probability flow.
BY_FLOW = ("encode", "interpolate", "vary")
# The number of steps of solvers that have no default of their own.
NUM_STEPS = 50


def choose_solver(config: ConfigDict) -> None:
    """Put the solver that edits are made with where those of samples are, in place."""
    by_flow, sampling = config.edit.task in BY_FLOW, config.sampling
    sampling.solver = "ode" if by_flow else config.edit.solver
    adaptive = chooses_steps(sampling.solver, sampling.method)
    if not by_flow:
        sampling.num_steps = config.edit.num_steps
    elif adaptive:
        sampling.num_steps = None
    if adaptive:
        # That of samples is none of its steps'.
        sampling.grid = None


def rehearse(config: ConfigDict, solver: Solver, model: Model) -> None:
    """Edit a picture of two pixels, of a model that is asked for nothing, to see that options fit together.

    Raises:
        UserError: options do not fit together; the line names the key.
    """
    settings = config.edit
    x, chosen = torch.zeros(1, 1, 1, 2, dtype=torch.float64), ["task"]
    if settings.task == "sdedit":
        chosen += ["solver", "num_steps"]
        with naming("edit.strength"):
            model, x = noised(model, x, settings.strength, seeds=[0])
    elif settings.task == UPSCALE or (settings.task not in BY_FLOW and method_of(config) == TRAINED):
        chosen += ["method", "solver", "num_steps"]
    elif settings.task not in BY_FLOW:
        chosen += ["method", "solver", "num_steps"]
        if settings.method in ("dps", "tds") and not settings.noise_std:
            raise UserError(
                f"edit.method={settings.method} divides by the variance of the observation's noise: give "
                "--config.edit.noise_std, or take edit.method=pigdm"
            )
        operator = Masked(torch.tensor([[[True, False]]]))
        observation = Observation(operator, operator(x), settings.noise_std)
        with naming("edit.method"):
            solver, model = answer(
                method_of(config), solver, model, observation, jump=1, repeats=1, num_particles=2, num_steps=2
            )
    values = {**settings.to_dict(), "method": method_of(config)}
    with naming(", ".join(f"edit.{key}={values[key]}" for key in chosen if values[key] is not None)):
        solver(model, x, seeds=[0])


def prepare(experiment: Experiment) -> None:
    """See that a solver of edits was asked for, not one of samples, and put it where those of samples are, in place.

    Raises:
        UserError: a solver of samples was asked for.
    """
    for key in ("solver", "num_steps"):
        if experiment.config.edit.task not in BY_FLOW and any(
            name == f"sampling.{key}" for name, _ in experiment.overrides
        ):
            raise UserError(f"--mode edit has a solver of its own: --config.edit.{key}")
    edit = experiment.config.edit
    if edit.task not in ("sdedit", UPSCALE, *BY_FLOW) and edit.method == "tds":
        for name, _ in experiment.overrides:
            if name == "edit.solver":
                raise UserError("edit.method=tds has steps of its own: leave out edit.solver")
    if chooses_steps("ode" if edit.task in BY_FLOW else edit.solver, experiment.config.sampling.method):
        for name, _ in experiment.overrides:
            if name in ("sampling.num_steps", "sampling.grid"):
                raise UserError(f"edit.task={edit.task} has adaptive steps: leave out {name}, or give sampling.method")
    choose_solver(experiment.config)


def make_editor(experiment: Experiment) -> Editor:
    """Make what the section `edit` asks for: the model, guided, and the solver, of a prepared experiment.

    Raises:
        UserError: classes are asked for that there are not, or examples of several classes are to be blended.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    count = num_answers(config, dataset)
    asked = asked_of(config, dataset, count)
    if config.edit.task == UPSCALE:
        asked = joined(asked, told_small(config, dataset))
    else:
        asked = with_noise_of_samples(config, dataset, asked, range(config.seed, config.seed + count))
    check_heard(config, dataset, asked, controls_of(model))
    labels = None if asked is None else asked.values.get("class")
    if config.edit.task == "interpolate" and asked is not None:
        if labels is not None and len(labels.unique()) > 1:
            raise UserError("examples are interpolated within one class: give one in sampling.labels")
        if any(bool((value != value[:1]).any()) for value in asked.values.values()):
            raise UserError("examples are interpolated under one condition: give one prompt, or one row")
    guides = conditions.find_guides(config, dataset, model.sde)
    away = led_away_from(config, dataset, 1 if asked is None else count)
    away = joined(away, without_the_rest(config, asked))
    models = conditions.make_guidance(config, model, asked, guides, away)
    solver = solver_for(experiment, NUM_STEPS)
    settings = settings_for(experiment, ["edit", "sampling"]) if distributed.rank() == 0 else {}
    of_part = partial(model_of_part, config, model, asked=asked, guides=guides, away=away)
    filling_in = filling_in_of(experiment, lambda model: conditions.make_guidance(config, model, asked, guides, away))
    return Editor(config, dataset, models, solver, settings, labels, of_part, filling_in)


def edit(editor: Editor) -> Edit | None:
    """Do what the section `edit` asks for, on one process; None on the others.

    Raises:
        UserError: the task means nothing for these data, an input is missing or does not fit, or an option is out of
            range.
    """
    settings, dataset = editor.config.edit, editor.dataset
    task = choose("task", settings.task, TASKS)
    if dataset.kind not in task.kinds:
        there = ", ".join(name for name, other in TASKS.items() if dataset.kind in other.kinds)
        raise UserError(
            f"edit.task={settings.task} means nothing for {dataset.kind}, as {dataset.name} has; do: {there}"
        )
    if settings.input is None:
        raise UserError(f"give a picture: --config.edit.input=FILE, or {TEST}0 for a test example")
    return task.edit(editor) if distributed.rank() == 0 else None


def write(editor: Editor, done: Edit, folder: Path) -> list[Path]:
    """Write an edit below the folder of a run; return the paths.

    Raises:
        UserError: a file cannot be written.
    """
    settings = editor.config.edit
    about = {**settings.to_dict(), "seed": editor.config.seed, "settings": editor.settings}
    numbers = about | done.numbers
    return write_edit(done._replace(numbers=numbers), editor.dataset, folder / "edit", settings.task, editor.labels)
