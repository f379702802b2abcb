"""What is to be edited: what `edit.input` names, in the units of the model.

An input is a test example, `test:3`, or `test:3-5` for three of them; or the file of a picture.
"""

from __future__ import annotations

from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.data import Dataset
from score_sde.data.sources.picture import background, read_picture
from score_sde.data.sources.picture_format import PictureFormat
from score_sde.data.sources.report import Report
from score_sde.data.units import as_numbers
from score_sde.experiment.editor import Editor

# What the names of test examples begin with.
TEST = "test:"


def num_answers(config: ConfigDict, dataset: Dataset) -> int:
    """Count the examples that will be made."""
    num_inputs = len(input_names(config.edit.input, len(dataset.test)))
    return num_inputs * (1 if config.edit.task == "encode" else config.edit.num_samples)


def input_names(text: str | None, num_test: int) -> list[str]:
    """Return the inputs that `edit.input` names; `test:3-5` stands for three of the `num_test` test examples.

    Raises:
        UserError: there are no such test examples.
    """
    names = []
    for item in (text or "").split(","):
        first, dash, last = item.strip().removeprefix(TEST).partition("-")
        if not (item.strip().startswith(TEST) and dash and first.isdecimal() and last.isdecimal()):
            names.append(item.strip())
        elif int(first) <= int(last) < num_test:
            names += [f"{TEST}{number}" for number in range(int(first), int(last) + 1)]
        else:
            raise UserError(f"there are no {item.strip()}: test examples are numbered from 0 to {num_test - 1}")
    return names


def names_test_examples(text: str | None) -> bool:
    """Return whether some of the inputs that `edit.input` names are test examples."""
    return any(item.strip().startswith(TEST) for item in (text or "").split(","))


def read_inputs(editor: Editor, form: PictureFormat | None, noise: bool = False) -> Tensor:
    """Read inputs `(M, *shape)`, in model units: the middles of levels, or, as they are in the data, with noise.

    Args:
        editor: what edits are made with.
        form: the format that files are brought to; None where examples are no pictures, and have no files.
        noise: whether levels get noise.

    Raises:
        UserError: an input is not there, or cannot be read.
    """
    dataset, inputs = editor.dataset, read_examples(editor, form)
    return dataset.encode(inputs, editor.config.seed) if noise else dataset.units.encode(as_numbers(inputs))


def read_examples(editor: Editor, form: PictureFormat | None) -> Tensor:
    """Read inputs `(M, *shape)`, in data units; arguments and complaints are those of `read_inputs`."""
    dataset, examples, report = editor.dataset, [], Report()
    for name in input_names(editor.config.edit.input, len(dataset.test)):
        number = name.removeprefix(TEST)
        if not name.startswith(TEST):
            if form is None:
                raise UserError(
                    f"edit.input={name}: files are of pictures, and {dataset.name} has {dataset.kind}: edit test "
                    f"examples, {TEST}0-3"
                )
            with naming("edit.input"):
                examples.append(read_picture(Path(name), form, report))
        elif editor.config.edit.observed:
            raise UserError("edit.observed is for pictures from files; test examples are whole")
        elif not number.isdecimal() or int(number) >= len(dataset.test):
            raise UserError(f"there is no {name}: {dataset.name} has the test examples 0 to {len(dataset.test) - 1}")
        else:
            examples.append(dataset.test[int(number)])
    if form is not None:
        note_reading(report, form)
    return torch.stack(examples)


def note_reading(report: Report, form: PictureFormat) -> None:
    """Say what there is to say of pictures that were read."""
    for note in report.notes(form.background):
        distributed.note(note)


def picture_format(editor: Editor) -> PictureFormat | None:
    """Return the format of the pictures that the model was trained on, and how they were brought to it; else None."""
    if not editor.dataset.is_image:
        return None
    channels, height, width = editor.dataset.shape
    data = editor.config.data
    behind = background(data.background)
    return PictureFormat(height, channels, editor.dataset.levels or 256, behind, width=width, resize=data.resize)
