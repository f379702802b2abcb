"""Editing: pictures completed, coloured, enlarged, sharpened, redrawn, blended, or taken to their latents and back.

Answer `j` of `K` to input `i` has the seed `config.seed + i K + j`, and depends on it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, choose, naming
from score_sde.common.progress import Progress
from score_sde.control import LinearOperator, Masked, Observation, blurred, grey, noised, shrunk, slerp
from score_sde.control.inverse_problems import answer, box_mask, random_mask
from score_sde.data import Dataset
from score_sde.data.conditions import of_classes
from score_sde.data.sources.picture import PictureFormat, Report, background, read_picture
from score_sde.evaluation.samples.edits import Edit, write_edit
from score_sde.evaluation.watched import Watched
from score_sde.experiment import conditions
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.settings import settings_for
from score_sde.experiment.solver import solver_for
from score_sde.models import rows_of
from score_sde.solvers import Model, Solution, decode, encode
from score_sde.solvers.base import Solver
from score_sde.solvers.ode.solver import ODE

_TEST = "test:"
# Tasks that go along the probability flow.
BY_FLOW = ("encode", "interpolate")
# The number of steps of solvers that have no default of their own.
NUM_STEPS = 50


class Editor(NamedTuple):
    """An editor holds what edits are made with.

    Attributes:
        config: the configuration.
        dataset: the data that the model was trained on.
        model: the model of all answers, of which `models.rows_of` gives that of a batch.
        solver: the solver that finds answers.
        settings: plain values by name that decide the answers.
        labels: classes of the answers, if any are asked for.
    """

    config: ConfigDict
    dataset: Dataset
    model: Model
    solver: Solver
    settings: dict[str, Any]
    labels: Tensor | None = None


class Problem(NamedTuple):
    """A problem asks for pictures of which something was observed.

    Attributes:
        operator: what is observed of a picture.
        form: the format of a picture that is itself what was observed.
        show: makes a picture of what was observed.
    """

    operator: LinearOperator
    form: PictureFormat
    show: Callable[[Tensor], Tensor] = lambda y: y


def choose_solver(config: ConfigDict) -> None:
    """Put the solver that edits are made with where those of samples are, in place."""
    if config.edit.task in BY_FLOW:
        config.sampling.solver = "ode"
    else:
        config.sampling.solver, config.sampling.num_steps = config.edit.solver, config.edit.num_steps


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
    elif settings.task not in BY_FLOW:
        chosen += ["method", "solver", "num_steps"]
        if settings.method == "dps" and not settings.noise_std:
            raise UserError(
                "edit.method=dps divides by the variance of the observation's noise: give --config.edit.noise_std, or "
                "take edit.method=pigdm"
            )
        operator = Masked(torch.tensor([[[True, False]]]))
        observation = Observation(operator, operator(x), settings.noise_std)
        with naming("edit.method"):
            solver, model = answer(settings.method, solver, model, observation, jump=1, repeats=1)
    with naming(", ".join(f"edit.{key}={settings[key]}" for key in chosen if settings[key] is not None)):
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
    choose_solver(experiment.config)


def make_editor(experiment: Experiment) -> Editor:
    """Make what the section `edit` asks for: the model, guided, and the solver, of a prepared experiment.

    Raises:
        UserError: classes are asked for that there are not, or pictures of several classes are to be blended.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    labels = conditions.sample_labels(config, dataset, num_answers(config, dataset))
    if config.edit.task == "interpolate" and labels is not None and len(labels.unique()) > 1:
        raise UserError("pictures are interpolated within one class: give one in sampling.labels")
    models = conditions.make_guidance(config, model, of_classes(labels), conditions.find_classifier(config, dataset))
    solver = solver_for(experiment, NUM_STEPS)
    settings = settings_for(experiment, ["edit", "sampling"]) if distributed.rank() == 0 else {}
    return Editor(config, dataset, models, solver, settings, labels)


def edit(editor: Editor) -> Edit | None:
    """Do what the section `edit` asks for, on one process; None on the others.

    Raises:
        UserError: an input is missing or does not fit, or an option is out of range.
    """
    settings, dataset = editor.config.edit, editor.dataset
    task = choose("task", settings.task, TASKS)
    if not dataset.is_image:
        raise UserError(f"--mode edit is for pictures, not {dataset.name}")
    if settings.input is None:
        raise UserError(f"give a picture: --config.edit.input=FILE, or {_TEST}0 for a test example")
    return task(editor) if distributed.rank() == 0 else None


def write(editor: Editor, done: Edit, folder: Path) -> list[Path]:
    """Write an edit below the folder of a run; return the paths.

    Raises:
        UserError: a file cannot be written.
    """
    settings = editor.config.edit
    about = {**settings.to_dict(), "seed": editor.config.seed, "settings": editor.settings}
    numbers = about | done.numbers
    return write_edit(done._replace(numbers=numbers), editor.dataset, folder / "edit", settings.task, editor.labels)


def _solve(editor: Editor, problem: Problem) -> Edit:
    """Find answers to what was observed, by the method asked for."""
    settings, dataset = editor.config.edit, editor.dataset
    inputs = _read(editor, problem.form if settings.observed else _form(editor))
    # A picture that is read as it was observed still shows something where it is hidden, so it is masked, too.
    masks = isinstance(problem.operator, Masked)
    y = inputs if settings.observed and not masks else problem.operator(inputs)
    if settings.noise_std and not settings.observed:
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(editor.config.seed))
        y = y + settings.noise_std * (problem.operator(noise) if masks else noise)
    options = {name: settings[name] for name in ("scale", "jump", "repeats")}
    options["data_std"] = editor.config.sampling.data_std or editor.config.model.data_std

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        observation = Observation(problem.operator, y[which].to(distributed.device()), settings.noise_std)
        solver, model = answer(settings.method, editor.solver, model, observation, **options)
        x_T = model.sde.prior_sample((len(seeds), *dataset.shape), seeds=seeds, device=distributed.device())
        return solver(model, x_T, seeds=seeds)

    answers, nfe = _answers(editor, len(inputs), solve)
    misfit = problem.operator(answers.flatten(0, 1)) - y.repeat_interleave(settings.num_samples, 0)
    numbers = {"network_calls": nfe, "largest_misfit_in_levels": misfit.abs().max().item() / dataset.units.spacing}
    if settings.observed:
        return Edit(problem.show(y), None, answers, numbers)
    return Edit(inputs, problem.show(y), answers, numbers | _distance(answers, inputs, dataset))


def _inpaint(editor: Editor) -> Edit:
    settings, (_, height, width) = editor.config.edit, editor.dataset.shape
    if settings.mask == "box":
        keep = box_mask(height, width, settings.box)
    elif settings.mask == "random":
        keep = random_mask(height, width, settings.hidden, editor.config.seed)
    else:
        form, report = PictureFormat(height, 1, background=background(editor.config.data.background)), Report()
        with naming("edit.mask"):
            keep = read_picture(Path(settings.mask), form, report)[None] >= 128
        _note(report, form)
    if keep.all() or not keep.any():
        raise UserError("the mask hides nothing, or everything: see edit.mask, edit.box and edit.hidden")
    return _solve(editor, Problem(Masked(keep), _form(editor)))


def _colorize(editor: Editor) -> Edit:
    channels = editor.dataset.shape[0]
    if channels == 1:
        raise UserError(f"{editor.dataset.name} has no colours to be found")
    form = _form(editor)._replace(channels=1)
    return _solve(editor, Problem(grey(), form, lambda y: y.expand(-1, channels, -1, -1)))


def _superres(editor: Editor) -> Edit:
    factor, size = editor.config.edit.factor, editor.dataset.shape[-1]
    if factor < 2 or size % factor:
        raise UserError(f"pictures of {size} x {size} cannot be had from smaller ones by edit.factor={factor}")
    form = _form(editor)._replace(size=size // factor)

    def show(y: Tensor) -> Tensor:
        return y.repeat_interleave(factor, -1).repeat_interleave(factor, -2)

    return _solve(editor, Problem(shrunk(factor), form, show))


def _deblur(editor: Editor) -> Edit:
    return _solve(editor, Problem(blurred(editor.config.edit.blur), _form(editor)))


def _sdedit(editor: Editor) -> Edit:
    inputs = _read(editor, _form(editor))

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        start = inputs[which].to(distributed.device())
        until, x = noised(model, start, editor.config.edit.strength, seeds=seeds)
        return editor.solver(until, x, seeds=seeds)

    answers, nfe = _answers(editor, len(inputs), solve)
    return Edit(inputs, None, answers, {"network_calls": nfe, **_distance(answers, inputs, editor.dataset)})


def _interpolate(editor: Editor) -> Edit:
    inputs, count = _read(editor, _form(editor), noise=True), editor.config.edit.num_samples
    if len(inputs) < 2 or count < 2:
        raise UserError("to interpolate takes two inputs, comma-separated, and edit.num_samples of at least 2")
    shares = torch.linspace(0, 1, count, dtype=inputs.dtype).repeat(len(inputs) - 1)

    def between(latents: Tensor) -> Tensor:
        first, second = (part.repeat_interleave(count, 0) for part in (latents[:-1], latents[1:]))
        return slerp(first, second, shares.to(first.device))

    latents, answers = _there_and_back(editor, inputs, between)
    path = answers.x.cpu().unflatten(0, (len(inputs) - 1, count))
    ends = torch.stack([path[:, 0] - inputs[:-1], path[:, -1] - inputs[1:]])
    numbers = {
        "network_calls": latents.nfe + answers.nfe,
        "largest_difference_of_the_ends_in_levels": ends.abs().max().item() / editor.dataset.units.spacing,
    }
    return Edit(inputs[:-1], None, path, numbers)


def _encode(editor: Editor) -> Edit:
    inputs, temperature = _read(editor, _form(editor), noise=True), editor.config.edit.temperature
    latents, decoded = _there_and_back(editor, inputs, lambda latents: temperature * latents)
    answers = decoded.x.cpu()[:, None]
    difference = (answers[:, 0] - inputs).abs().max().item() / editor.dataset.units.spacing
    numbers = {
        "network_calls": latents.nfe + decoded.nfe,
        "root_mean_square_of_the_latents": latents.x.square().mean().sqrt().item(),
        "largest_difference_from_the_input_in_levels": difference,
    }
    return Edit(inputs, None, answers, numbers)


TASKS: dict[str, Callable[[Editor], Edit]] = {
    "inpaint": _inpaint,
    "colorize": _colorize,
    "superres": _superres,
    "deblur": _deblur,
    "sdedit": _sdedit,
    "interpolate": _interpolate,
    "encode": _encode,
}


def _there_and_back(editor: Editor, inputs: Tensor, change: Callable[[Tensor], Tensor]) -> tuple[Solution, Solution]:
    """Return the latents of the inputs, and what these decode to when they are changed."""
    options = _flow_options(editor)
    with Progress(editor.config.edit.task, 2, "way") as bar:
        model = Watched(rows_of(editor.model, slice(len(inputs))), bar.call)
        latents = encode(model, inputs.to(distributed.device()), **options)
        bar.update()
        changed = change(latents.x)
        decoded = decode(Watched(rows_of(editor.model, slice(len(changed))), bar.call), changed, **options)
        bar.update()
    return latents, decoded


def _answers(
    editor: Editor, num_inputs: int, solve: Callable[[Model, Tensor, list[int]], Solution]
) -> tuple[Tensor, float]:
    """Find answers `(M, K, *dims)`; return them and the network calls of each.

    `solve` is called with the model of a batch of answers, the numbers of their inputs, and their seeds.
    """
    settings, size = editor.config.edit, editor.config.sampling.batch_size
    count = settings.num_samples
    batches = [slice(first, min(first + size, num_inputs * count)) for first in range(0, num_inputs * count, size)]
    found, calls = [], 0
    with Progress(settings.task, len(batches), "batch", _calls(editor)) as bar:
        for rows in batches:
            numbers = torch.arange(rows.start, rows.stop)
            model = Watched(rows_of(editor.model, rows), bar.call)
            solution = solve(model, numbers // count, (editor.config.seed + numbers).tolist())
            found.append(solution.x.cpu())
            calls += solution.nfe * len(numbers)
            bar.update()
    answers = torch.cat(found)
    if not bool(answers.isfinite().all()):
        raise UserError("answers are not finite: take more steps, a smaller edit.scale, or another method")
    return answers.unflatten(0, (num_inputs, count)), calls / len(answers)


def _calls(editor: Editor) -> int | None:
    """Return the number of network calls of a batch of answers, where known: RePaint has more than its solver."""
    settings = editor.config.edit
    if settings.task != "sdedit" and settings.method == "repaint":
        return None
    return editor.solver.calls(editor.model.sde)


def _distance(answers: Tensor, inputs: Tensor, dataset: Dataset) -> dict[str, float]:
    """Measure how far answers `(M, K, *dims)` are from the inputs, and from each other, in levels."""
    error = (answers - inputs[:, None]).square().mean().sqrt().item() / dataset.units.spacing
    numbers = {"root_mean_square_difference_from_the_input_in_levels": error}
    if answers.shape[1] > 1:
        numbers["spread_in_levels"] = answers.std(1).square().mean().sqrt().item() / dataset.units.spacing
    return numbers


def _read(editor: Editor, form: PictureFormat, noise: bool = False) -> Tensor:
    """Read inputs `(M, C, H, W)`, in model units: the middles of levels, or, as they are in the data, with noise."""
    dataset, levels, report = editor.dataset, [], Report()
    for name in input_names(editor.config.edit.input, len(dataset.test)):
        number = name.removeprefix(_TEST)
        if not name.startswith(_TEST):
            with naming("edit.input"):
                levels.append(read_picture(Path(name), form, report))
        elif editor.config.edit.observed:
            raise UserError("edit.observed is for pictures from files; test examples are whole")
        elif not number.isdecimal() or int(number) >= len(dataset.test):
            raise UserError(f"there is no {name}: {dataset.name} has the test examples 0 to {len(dataset.test) - 1}")
        else:
            levels.append(dataset.test[int(number)])
    _note(report, form)
    inputs = torch.stack(levels)
    return dataset.encode(inputs, editor.config.seed) if noise else dataset.units.encode(inputs.float())


def _note(report: Report, form: PictureFormat) -> None:
    """Say what there is to say of pictures that were read."""
    for note in report.notes(form.background):
        distributed.note(note)


def num_answers(config: ConfigDict, dataset: Dataset) -> int:
    """Count the pictures that will be made."""
    num_inputs = len(input_names(config.edit.input, len(dataset.test)))
    return num_inputs * (1 if config.edit.task == "encode" else config.edit.num_samples)


def input_names(text: str | None, num_test: int) -> list[str]:
    """Return the inputs that `edit.input` names; `test:3-5` stands for three of the `num_test` test examples.

    Raises:
        UserError: there are no such test examples.
    """
    names = []
    for item in (text or "").split(","):
        first, dash, last = item.strip().removeprefix(_TEST).partition("-")
        if not (item.strip().startswith(_TEST) and dash and first.isdecimal() and last.isdecimal()):
            names.append(item.strip())
        elif int(first) <= int(last) < num_test:
            names += [f"{_TEST}{number}" for number in range(int(first), int(last) + 1)]
        else:
            raise UserError(f"there are no {item.strip()}: test examples are numbered from 0 to {num_test - 1}")
    return names


def names_test_examples(text: str | None) -> bool:
    """Return whether some of the inputs that `edit.input` names are test examples."""
    return any(item.strip().startswith(_TEST) for item in (text or "").split(","))


def _form(editor: Editor) -> PictureFormat:
    """Return size, channels, levels and background of the pictures that the model was trained on."""
    channels, height, _ = editor.dataset.shape
    behind = background(editor.config.data.background)
    return PictureFormat(height, channels, editor.dataset.levels or 256, behind)


def _flow_options(editor: Editor) -> dict[str, Any]:
    """Return those options of the solver, an `ODE`, that were given, for encoding and decoding."""
    assert isinstance(editor.solver, ODE)
    given = {field.name: getattr(editor.solver, field.name) for field in fields(editor.solver)}
    return {name: value for name, value in given.items() if value is not None}
