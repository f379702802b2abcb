"""Pictures that are to be enlarged by a model of small ones (`data.low_resolution`): what `edit.input` names.

An input is the file of a picture, which is brought to the small size, or `test:3`, a test example made small.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, naming
from score_sde.data import Dataset
from score_sde.data.conditions import ConditionUnits
from score_sde.data.low_resolution import LOW_RESOLUTION, smaller
from score_sde.data.sources.picture import background, read_picture
from score_sde.data.sources.picture_format import PictureFormat
from score_sde.data.sources.report import Report
from score_sde.evaluation.samples.edits import Edit
from score_sde.experiment.condition_values import condition_of
from score_sde.experiment.edit_answers import answers_of
from score_sde.experiment.edit_inputs import TEST, input_names, note_reading
from score_sde.experiment.editor import Editor
from score_sde.experiment.low_resolution import with_noise_of_samples
from score_sde.solvers import Model, Solution

# The task of editing.
UPSCALE = "upscale"


def read_small(config: ConfigDict, dataset: Dataset) -> Tensor:
    """Read small pictures `(M, C, h, w)`, in data units.

    Raises:
        UserError: the model enlarges no pictures, or an input is not there or cannot be read.
    """
    units = dataset.condition_units.get(LOW_RESOLUTION)
    if not isinstance(units, ConditionUnits):
        raise UserError("edit.task=upscale is for models that enlarge pictures, data.low_resolution; others: superres")
    channels, height, width = units.shape
    data, report, pictures = config.data, Report(), []
    form = PictureFormat(
        height, channels, dataset.levels or 256, background(data.background), width=width, resize=data.resize
    )
    for name in input_names(config.edit.input, len(dataset.test)):
        number = name.removeprefix(TEST)
        if not name.startswith(TEST):
            with naming("edit.input"):
                pictures.append(read_picture(Path(name), form, report).float())
        elif not number.isdecimal() or int(number) >= len(dataset.test):
            raise UserError(f"there is no {name}: {dataset.name} has the test examples 0 to {len(dataset.test) - 1}")
        else:
            pictures.append(dataset.conditions["test"][LOW_RESOLUTION][int(number)].float())
    note_reading(report, form)
    return torch.stack(pictures)


def told_small(config: ConfigDict, dataset: Dataset) -> Condition:
    """Return what the answers to all inputs are told of these, in order, with noise as the section `sampling` has it.

    Raises:
        UserError: as of `read_small`.
    """
    small = read_small(config, dataset).repeat_interleave(config.edit.num_samples, 0)
    told, count = condition_of(config, dataset, {LOW_RESOLUTION: small}, len(small))
    noisy = with_noise_of_samples(config, dataset, told, range(config.seed, config.seed + count))
    assert noisy is not None
    return noisy


def upscale(editor: Editor) -> Edit:
    """Enlarge small pictures by a model that is told them, as the model of all answers has been already."""
    small, dataset = read_small(editor.config, editor.dataset), editor.dataset
    shown = F.interpolate(dataset.units.encode(small), dataset.shape[1:], mode="nearest")

    def solve(model: Model, which: Tensor, seeds: list[int]) -> Solution:
        x_T = model.sde.prior_sample((len(seeds), *dataset.shape), seeds=seeds, device=distributed.device())
        return editor.solver(model, x_T, seeds=seeds)

    answers, nfe = answers_of(editor, len(small), solve)
    again = smaller(dataset.units.decode(answers.flatten(0, 1)), tuple(small.shape[1:]))
    misfit = (again - small.repeat_interleave(answers.shape[1], 0)).square().mean().sqrt().item()
    return Edit(shown, None, answers, {"network_calls": nfe, "root_mean_square_misfit_in_levels": misfit})
