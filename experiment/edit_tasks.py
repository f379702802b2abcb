"""The tasks of editing: each turns an editor and its inputs into answers, with numbers of how they came about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.progress import Progress
from score_sde.control import LinearOperator, Masked, Observation, blurred, grey, noised, shrunk, slerp
from score_sde.control.inverse_problems import answer, box_mask, random_mask
from score_sde.data import Dataset
from score_sde.data.dataset import Kind
from score_sde.data.sources.picture import read_picture
from score_sde.data.sources.picture_format import PictureFormat
from score_sde.data.sources.report import Report
from score_sde.evaluation.samples.edits import Edit
from score_sde.evaluation.watched import Watched
from score_sde.experiment.edit_inputs import note_reading, picture_format, read_inputs
from score_sde.experiment.editor import Editor
from score_sde.experiment.upscaling import UPSCALE, read_small
from score_sde.models import rows_of
from score_sde.solvers import Model, Solution, decode, encode
from score_sde.solvers.ode.solver import ODE


class Problem(NamedTuple):
    """A problem asks for examples of which something was observed.

    Attributes:
        operator: what is observed of an example.
        form: the format of a picture that is itself what was observed; None for other kinds of data.
        show: makes an example of what was observed.
    """

    operator: LinearOperator
    form: PictureFormat | None
    show: Callable[[Tensor], Tensor] = lambda y: y


def _solve(editor: Editor, problem: Problem) -> Edit:
    """Find answers to what was observed, by the method asked for."""
    settings, dataset = editor.config.edit, editor.dataset
    inputs = read_inputs(editor, problem.form if settings.observed else picture_format(editor))
    # A picture that is read as it was observed still shows something where it is hidden, so it is masked, too.
    masks = isinstance(problem.operator, Masked)
    y = inputs if settings.observed and not masks else problem.operator(inputs)
    if settings.noise_std and not settings.observed:
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(editor.config.seed))
        y = y + settings.noise_std * (problem.operator(noise) if masks else noise)
    options = {name: settings[name] for name in ("scale", "jump", "repeats", "iterations", "num_particles")}
    if settings.num_steps is not None:
        options["num_steps"] = settings.num_steps
    options["data_std"] = editor.config.sampling.data_std or editor.config.model.data_std

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        observation = Observation(problem.operator, y[which].to(distributed.device()), settings.noise_std)
        solver, model = answer(settings.method, editor.solver, model, observation, **options)
        x_T = model.sde.prior_sample((len(seeds), *dataset.shape), seeds=seeds, device=distributed.device())
        return solver(model, x_T, seeds=seeds)

    answers, nfe = _answers(editor, len(inputs), solve)
    misfit = problem.operator(answers.flatten(0, 1)) - y.repeat_interleave(settings.num_samples, 0)
    numbers = {"network_calls": nfe, **_in_units("largest_misfit", misfit.abs().max(), dataset)}
    if settings.observed:
        return Edit(problem.show(y), None, answers, numbers)
    return Edit(inputs, problem.show(y), answers, numbers | _distance(answers, inputs, dataset))


def _inpaint(editor: Editor) -> Edit:
    dataset, form = editor.dataset, picture_format(editor)
    keep = _mask(editor, form)
    if keep.all() or not keep.any():
        raise UserError("the mask hides nothing, or everything: see edit.mask, edit.box and edit.hidden")
    # What is hidden is the middle of the levels, or, where there are none, no number.
    nothing = torch.nan if dataset.levels is None else 0.0
    return _solve(editor, Problem(Masked(keep), form, lambda y: torch.where(keep, y, nothing)))


def _mask(editor: Editor, form: PictureFormat | None) -> Tensor:
    """Return which places are observed, bool; its shape broadcasts against `(B, *shape)`."""
    settings, shape = editor.config.edit, editor.dataset.shape
    # The columns of a vector are places; elsewhere all channels of a place are hidden together.
    sizes = shape[1:] or shape
    if settings.mask in ("box", "random"):
        with naming(f"edit.{'box' if settings.mask == 'box' else 'hidden'}"):
            if settings.mask == "box":
                keep = box_mask(sizes, settings.box)
            else:
                keep = random_mask(sizes, settings.hidden, editor.config.seed)
        return keep.reshape(1, *(1,) * (len(shape) - len(sizes)), *sizes)
    if form is None:
        raise UserError(f"edit.mask={settings.mask}: of {editor.dataset.kind} a mask is box or random")
    form, report = form._replace(channels=1, levels=256), Report()
    with naming("edit.mask"):
        keep = read_picture(Path(settings.mask), form, report)[None] >= 128
    note_reading(report, form)
    return keep


def _colorize(editor: Editor) -> Edit:
    channels = editor.dataset.shape[0]
    if channels == 1:
        raise UserError(f"{editor.dataset.name} has no colours to be found")
    form = picture_format(editor)
    assert form is not None
    return _solve(editor, Problem(grey(), form._replace(channels=1), lambda y: y.expand(-1, channels, -1, -1)))


def _superres(editor: Editor) -> Edit:
    factor, sizes, form = editor.config.edit.factor, editor.dataset.shape[1:], picture_format(editor)
    if factor < 2 or any(size % factor for size in sizes):
        whole = " x ".join(map(str, sizes))
        raise UserError(f"{editor.dataset.kind} of {whole} cannot be had from smaller ones by edit.factor={factor}")
    if form is not None:
        form = form._replace(size=sizes[0] // factor, width=sizes[1] // factor)

    def show(y: Tensor) -> Tensor:
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(factor, axis)
        return y

    return _solve(editor, Problem(shrunk(factor), form, show))


def _deblur(editor: Editor) -> Edit:
    return _solve(editor, Problem(blurred(editor.config.edit.blur), picture_format(editor)))


def _sdedit(editor: Editor) -> Edit:
    inputs = read_inputs(editor, picture_format(editor))

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        start = inputs[which].to(distributed.device())
        until, x = noised(model, start, editor.config.edit.strength, seeds=seeds)
        return editor.solver(until, x, seeds=seeds)

    answers, nfe = _answers(editor, len(inputs), solve)
    return Edit(inputs, None, answers, {"network_calls": nfe, **_distance(answers, inputs, editor.dataset)})


def _upscale(editor: Editor) -> Edit:
    """Enlarge small pictures by a model that is told them; the model of all answers has been told already."""
    small, dataset = read_small(editor.config, editor.dataset), editor.dataset
    shown = F.interpolate(dataset.units.encode(small), dataset.shape[1:], mode="nearest")

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        x_T = model.sde.prior_sample((len(seeds), *dataset.shape), seeds=seeds, device=distributed.device())
        return editor.solver(model, x_T, seeds=seeds)

    answers, nfe = _answers(editor, len(small), solve)
    again = F.interpolate(dataset.units.decode(answers.flatten(0, 1)).float(), small.shape[2:], mode="area")
    misfit = (again - small.repeat_interleave(answers.shape[1], 0)).square().mean().sqrt().item()
    return Edit(shown, None, answers, {"network_calls": nfe, "root_mean_square_misfit_in_levels": misfit})


def _interpolate(editor: Editor) -> Edit:
    inputs, count = read_inputs(editor, picture_format(editor), noise=True), editor.config.edit.num_samples
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
        **_in_units("largest_difference_of_the_ends", ends.abs().max(), editor.dataset),
    }
    return Edit(inputs[:-1], None, path, numbers)


def _encode(editor: Editor) -> Edit:
    inputs, temperature = read_inputs(editor, picture_format(editor), noise=True), editor.config.edit.temperature
    latents, decoded = _there_and_back(editor, inputs, lambda latents: temperature * latents)
    answers = decoded.x.cpu()[:, None]
    difference = (answers[:, 0] - inputs).abs().max()
    numbers = {
        "network_calls": latents.nfe + decoded.nfe,
        "root_mean_square_of_the_latents": latents.x.square().mean().sqrt().item(),
        **_in_units("largest_difference_from_the_input", difference, editor.dataset),
    }
    return Edit(inputs, None, answers, numbers)


class Task(NamedTuple):
    """A task of editing is done by a function, and means something for some kinds of data."""

    edit: Callable[[Editor], Edit]
    kinds: tuple[Kind, ...] = ("vectors", "series", "images", "fields", "volumes")


# Kinds whose numbers have neighbours.
_IN_SPACE: tuple[Kind, ...] = ("series", "images", "fields", "volumes")
TASKS = {
    "inpaint": Task(_inpaint),
    "colorize": Task(_colorize, ("images",)),
    "superres": Task(_superres, _IN_SPACE),
    UPSCALE: Task(_upscale, ("images",)),
    "deblur": Task(_deblur, _IN_SPACE),
    "sdedit": Task(_sdedit),
    "interpolate": Task(_interpolate),
    "encode": Task(_encode),
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
    if _by_particles(editor):
        size = max(1, size // settings.num_particles)
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
    if _by_particles(editor) or (settings.task != "sdedit" and settings.method == "repaint"):
        return None
    return editor.solver.calls(editor.model.sde)


def _by_particles(editor: Editor) -> bool:
    """Return whether each answer is one of many particles."""
    return editor.config.edit.task != "sdedit" and editor.config.edit.method == "tds"


def _distance(answers: Tensor, inputs: Tensor, dataset: Dataset) -> dict[str, float]:
    """Measure how far answers `(M, K, *dims)` are from the inputs, and from each other."""
    error = (answers - inputs[:, None]).square().mean().sqrt()
    numbers = _in_units("root_mean_square_difference_from_the_input", error, dataset)
    if answers.shape[1] > 1:
        numbers |= _in_units("spread", answers.std(1).square().mean().sqrt(), dataset)
    return numbers


def _in_units(name: str, value: Tensor, dataset: Dataset) -> dict[str, float]:
    """Return a difference in model units in levels, or in standard deviations of data without levels, by its name."""
    unit = "standard_deviations" if dataset.levels is None else "levels"
    return {f"{name}_in_{unit}": value.item() / dataset.units.spacing}


def _flow_options(editor: Editor) -> dict[str, Any]:
    """Return those options of the solver, an `ODE`, that were given, for encoding and decoding."""
    assert isinstance(editor.solver, ODE)
    given = {field.name: getattr(editor.solver, field.name) for field in fields(editor.solver)}
    return {name: value for name, value in given.items() if value is not None}
