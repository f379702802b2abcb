"""The tasks of editing: each turns an editor and its inputs into answers, with numbers of how they came about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.part import Part
from score_sde.control import LinearOperator, Masked, Observation, blurred, grey, shrunk
from score_sde.control.inverse_problems import answer, box_mask, random_mask
from score_sde.data.dataset import Kind
from score_sde.data.latent_units import Latents
from score_sde.data.sources.picture import read_picture
from score_sde.data.sources.picture_format import PictureFormat
from score_sde.data.sources.report import Report
from score_sde.evaluation.samples.edits import Edit
from score_sde.experiment.build import LATENTS
from score_sde.experiment.edit_answers import answers_of, distance, in_units
from score_sde.experiment.edit_inputs import note_reading, picture_format, read_examples, read_inputs
from score_sde.experiment.edit_latents import interpolate, latents_and_back, sdedit, vary
from score_sde.experiment.editor import Editor
from score_sde.experiment.inpainting import TRAINED, method_of
from score_sde.experiment.pipeline_edits import FillingIn
from score_sde.experiment.upscaling import UPSCALE, upscale
from score_sde.solvers import Model, Solution


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
        solver, model = answer(method_of(editor.config), editor.solver, model, observation, **options)
        x_T = model.sde.prior_sample((len(seeds), *dataset.model_shape), seeds=seeds, device=distributed.device())
        return solver(model, x_T, seeds=seeds)

    answers, nfe = answers_of(editor, len(inputs), solve)
    misfit = problem.operator(answers.flatten(0, 1)) - y.repeat_interleave(settings.num_samples, 0)
    numbers = {"network_calls": nfe, **in_units("largest_misfit", misfit.abs().max(), dataset)}
    if settings.observed:
        return Edit(problem.show(y), None, answers, numbers)
    return Edit(inputs, problem.show(y), answers, numbers | distance(answers, inputs, dataset))


def _inpaint(editor: Editor) -> Edit:
    dataset, form = editor.dataset, picture_format(editor)
    if editor.filling_in is not None:
        return _fill_in(editor, editor.filling_in, form)
    keep = _mask(editor, form, dataset.model_shape)
    # What is hidden is the middle of the levels, or, where there are none, no number.
    nothing = torch.nan if dataset.levels is None else 0.0
    problem = Problem(Masked(keep), form, lambda y: torch.where(keep, y, nothing))
    return _draw_hidden(editor, keep, problem) if method_of(editor.config) == TRAINED else _solve(editor, problem)


def _draw_hidden(editor: Editor, keep: Tensor, problem: Problem) -> Edit:
    """Draw what is hidden by a model that is told the rest, which stays to the last bit; `keep` is where that is."""
    settings = editor.config.edit
    if settings.noise_std:
        raise UserError(
            f"edit.method={TRAINED} keeps what is known as it is: --config.edit.noise_std=0, or edit.method=pigdm"
        )
    inputs = read_inputs(editor, picture_format(editor))
    known = keep.expand_as(inputs)
    part = Part(torch.where(known, inputs, 0), known, ~known)
    of_answers = part[torch.arange(len(inputs)).repeat_interleave(settings.num_samples)]

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        return _sample(editor, model, seeds)

    assert editor.of_part is not None
    drawn, nfe = answers_of(editor._replace(model=editor.of_part(of_answers)), len(inputs), solve)
    answers = torch.where(known[:, None], inputs[:, None], drawn)
    shown = problem.show(problem.operator(inputs))
    if settings.observed:
        return Edit(shown, None, answers, {"network_calls": nfe})
    return Edit(inputs, shown, answers, {"network_calls": nfe, **distance(answers, inputs, editor.dataset)})


def _fill_in(editor: Editor, filling_in: FillingIn, form: PictureFormat | None) -> Edit:
    """Draw latents of pictures by a pipeline that is told the pictures, and where they are to be filled in."""
    settings, dataset = editor.config.edit, editor.dataset
    if settings.method is not None or settings.noise_std:
        raise UserError("this pipeline fills in what it is told is hidden: leave out edit.method and edit.noise_std")
    pictures = read_examples(editor, form)
    keep = _mask(editor, form, dataset.shape)
    hidden = ~keep[0, 0]
    model = filling_in(pictures, hidden)

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        return _sample(editor, model, seeds)

    answers, nfe = answers_of(editor._replace(model=model), len(pictures), solve)
    shown = dataset.units.encode(torch.where(hidden, dataset.quantised.levels // 2, pictures).to(torch.uint8))
    if settings.observed:
        return Edit(shown, None, answers, {"network_calls": nfe})
    inputs = dataset.units.encode(pictures)
    return Edit(inputs, shown, answers, {"network_calls": nfe, **distance(answers, inputs, dataset)})


def _sample(editor: Editor, model: Model, seeds: list[int]) -> Solution:
    """Draw samples of these seeds."""
    shape = (len(seeds), *editor.dataset.model_shape)
    return editor.solver(model, model.sde.prior_sample(shape, seeds=seeds, device=distributed.device()), seeds=seeds)


def _mask(editor: Editor, form: PictureFormat | None, shape: tuple[int, ...]) -> Tensor:
    """Return which places of what has a shape are observed, bool, as `(B, *shape)` broadcasts.

    Raises:
        UserError: all are, or none, or the mask cannot be read, or is not of these data.
    """
    keep = _known_places(editor, form, shape)
    if keep.all() or not keep.any():
        raise UserError("the mask hides nothing, or everything: see edit.mask, edit.box and edit.hidden")
    return keep


def _known_places(editor: Editor, form: PictureFormat | None, shape: tuple[int, ...]) -> Tensor:
    settings = editor.config.edit
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
    # Of latents those are known that lie under known pixels alone.
    return keep.unflatten(3, (sizes[1], -1)).all(4).unflatten(2, (sizes[0], -1)).all(3)


def _colorize(editor: Editor) -> Edit:
    _check_pixels(editor)
    channels = editor.dataset.shape[0]
    if channels == 1:
        raise UserError(f"{editor.dataset.name} has no colours to be found")
    form = picture_format(editor)
    assert form is not None
    return _solve(editor, Problem(grey(), form._replace(channels=1), lambda y: y.expand(-1, channels, -1, -1)))


def _superres(editor: Editor) -> Edit:
    _check_pixels(editor)
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
    _check_pixels(editor)
    return _solve(editor, Problem(blurred(editor.config.edit.blur), picture_format(editor)))


def _check_pixels(editor: Editor) -> None:
    """See that a model sees the numbers of which something is observed.

    Raises:
        UserError: it sees latents of an autoencoder, of which nothing is known then.
    """
    if isinstance(editor.dataset.units, Latents) or editor.config.data.dataset == LATENTS:
        raise UserError(
            f"edit.task={editor.config.edit.task} is of pixels, and the model is of latents: take a model of pixels, "
            "or edit.task inpaint, sdedit, vary, interpolate or encode"
        )


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
    UPSCALE: Task(upscale, ("images",)),
    "deblur": Task(_deblur, _IN_SPACE),
    "sdedit": Task(sdedit),
    "vary": Task(vary),
    "interpolate": Task(interpolate),
    "encode": Task(latents_and_back),
}
