"""Edits through noise and through latents: SDEdit, variations, examples blended, and taken to latents and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.progress import Progress
from score_sde.control import noised, slerp, varied
from score_sde.evaluation.samples.edits import Edit
from score_sde.evaluation.watched import Watched
from score_sde.experiment.edit_answers import answers_of, distance, in_units
from score_sde.experiment.edit_inputs import picture_format, read_inputs
from score_sde.experiment.editor import Editor
from score_sde.models import rows_of
from score_sde.solvers import Model, Solution, decode, encode
from score_sde.solvers.ode.solver import ODE


def sdedit(editor: Editor) -> Edit:
    """Redraw examples from the noise of `edit.strength` on."""
    inputs = read_inputs(editor, picture_format(editor))

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        start = inputs[which].to(distributed.device())
        until, x = noised(model, start, editor.config.edit.strength, seeds=seeds)
        return editor.solver(until, x, seeds=seeds)

    answers, nfe = answers_of(editor, len(inputs), solve)
    return Edit(inputs, None, answers, {"network_calls": nfe, **distance(answers, inputs, editor.dataset)})


def vary(editor: Editor) -> Edit:
    """Make variations of examples: their latents, partly replaced by noise, decoded."""
    inputs, settings = read_inputs(editor, picture_format(editor), noise=True), editor.config.edit
    count = settings.num_samples
    first = torch.arange(len(inputs)) * count
    seeds = range(editor.config.seed, editor.config.seed + count * len(inputs))

    def changed(latents: Tensor) -> Tensor:
        return varied(editor.model.sde, latents.repeat_interleave(count, 0), settings.strength, seeds=seeds)

    latents, decoded = _there_and_back(editor, inputs, changed, first)
    answers = decoded.x.cpu().unflatten(0, (len(inputs), count))
    numbers = {"network_calls": latents.nfe / count + decoded.nfe, **distance(answers, inputs, editor.dataset)}
    return Edit(inputs, None, answers, numbers)


def interpolate(editor: Editor) -> Edit:
    """Blend each example with the next, in their latents."""
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
        **in_units("largest_difference_of_the_ends", ends.abs().max(), editor.dataset),
    }
    return Edit(inputs[:-1], None, path, numbers)


def latents_and_back(editor: Editor) -> Edit:
    """Encode examples, and decode their latents times `edit.temperature`."""
    inputs, temperature = read_inputs(editor, picture_format(editor), noise=True), editor.config.edit.temperature
    latents, decoded = _there_and_back(editor, inputs, lambda latents: temperature * latents)
    answers = decoded.x.cpu()[:, None]
    difference = (answers[:, 0] - inputs).abs().max()
    numbers = {
        "network_calls": latents.nfe + decoded.nfe,
        "root_mean_square_of_the_latents": latents.x.square().mean().sqrt().item(),
        **in_units("largest_difference_from_the_input", difference, editor.dataset),
    }
    return Edit(inputs, None, answers, numbers)


def _there_and_back(
    editor: Editor, inputs: Tensor, change: Callable[[Tensor], Tensor], rows: Tensor | None = None
) -> tuple[Solution, Solution]:
    """Return the latents of the inputs, and what these decode to when they are changed.

    The answer whose model each input is encoded by is that of its own number, or of `rows`.
    """
    options = _flow_options(editor)
    with Progress(editor.config.edit.task, 2, "way") as bar:
        model = Watched(rows_of(editor.model, slice(len(inputs)) if rows is None else rows), bar.call)
        latents = encode(model, inputs.to(distributed.device()), **options)
        bar.update()
        changed = change(latents.x)
        decoded = decode(Watched(rows_of(editor.model, slice(len(changed))), bar.call), changed, **options)
        bar.update()
    return latents, decoded


def _flow_options(editor: Editor) -> dict[str, Any]:
    """Return those options of the solver, an `ODE`, that were given, for encoding and decoding."""
    assert isinstance(editor.solver, ODE)
    given = {field.name: getattr(editor.solver, field.name) for field in fields(editor.solver)}
    return {name: value for name, value in given.items() if value is not None}
