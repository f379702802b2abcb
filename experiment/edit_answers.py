"""Answers to inputs of an edit, in batches, and how far they are from what was given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.progress import Progress
from score_sde.data import Dataset
from score_sde.data.latent_units import Latents
from score_sde.evaluation.watched import Watched
from score_sde.experiment.editor import Editor
from score_sde.experiment.inpainting import method_of
from score_sde.models import rows_of
from score_sde.solvers import Model, Solution


def answers_of(
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
    if _by_particles(editor) or (settings.task != "sdedit" and method_of(editor.config) == "repaint"):
        return None
    return editor.solver.calls(editor.model.sde)


def _by_particles(editor: Editor) -> bool:
    """Return whether each answer is one of many particles."""
    return editor.config.edit.task != "sdedit" and method_of(editor.config) == "tds"


def distance(answers: Tensor, inputs: Tensor, dataset: Dataset) -> dict[str, float]:
    """Measure how far answers `(M, K, *dims)` are from the inputs, and from each other."""
    error = (answers - inputs[:, None]).square().mean().sqrt()
    numbers = in_units("root_mean_square_difference_from_the_input", error, dataset)
    if answers.shape[1] > 1:
        numbers |= in_units("spread", answers.std(1).square().mean().sqrt(), dataset)
    return numbers


def in_units(name: str, value: Tensor, dataset: Dataset) -> dict[str, float]:
    """Return a difference in model units in levels, or in standard deviations of data without levels, by its name."""
    of_levels = dataset.levels is not None and not isinstance(dataset.units, Latents)
    unit = "levels" if of_levels else "standard_deviations"
    return {f"{name}_in_{unit}": value.item() / dataset.units.spacing}
