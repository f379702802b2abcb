"""What `--mode edit` writes down: examples side by side, arrays, and numbers.

edit/<task>.png     of pictures a row for each input: the input, what was observed of it, answers, their spread; of
                    other kinds of data, input, observation and answers of the first inputs
edit/<task>.npz     the same as uint8 images, or in data units, where what is hidden of numbers without levels is NaN;
                    answers also in model units, float32, like the spread; their classes, if they have any
edit/<task>.json    how it was done, and how far answers are from the input and from what was observed; their classes
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common.files import write_atomically
from score_sde.common.plots import save_answers, save_grid
from score_sde.data import Dataset
from score_sde.data.latent_units import Latents
from score_sde.evaluation.provenance import replacing


class Edit(NamedTuple):
    """An edit has examples before and after, in model units.

    Attributes:
        inputs: the examples that were given, `(M, *shape)`.
        observed: what was observed of each, as examples; None if nothing was hidden.
        answers: the examples that were made, `K` for each input, `(M, K, *shape)`.
        numbers: what was measured of the whole, by name; `settings` are what the edit was made with.
    """

    inputs: Tensor
    observed: Tensor | None
    answers: Tensor
    numbers: dict[str, Any]

    @property
    def spread(self) -> Tensor:
        """The spread is the standard deviation of the answers to each input, number by number, `(M, *shape)`."""
        return self.answers.std(1) if self.answers.shape[1] > 1 else torch.zeros_like(self.inputs)


def write_edit(edit: Edit, dataset: Dataset, folder: Path, task: str, labels: Tensor | None = None) -> list[Path]:
    """Write pictures, arrays and numbers; return the paths. `labels` `(M K,)` or more are the answers' classes, if any.

    Raises:
        UserError: a file cannot be written.
    """
    paths = [folder / f"{task}.{suffix}" for suffix in ("png", "npz", "json")]
    arrays: dict[str, Any] = {
        "inputs": _examples(edit.inputs, dataset),
        "answers": np.stack([_examples(each, dataset) for each in edit.answers]),
        "answers_in_model_units": edit.answers.float().numpy(),
        "spread": edit.spread.float().numpy(),
    }
    if edit.observed is not None:
        arrays["observed"] = _examples(edit.observed, dataset)
    if dataset.is_image:
        _save_pictures(paths[0], edit, dataset)
    else:
        _save_others(paths[0], edit, dataset, arrays)
    numbers = edit.numbers
    if labels is not None:
        of_answers = labels[: edit.answers.shape[0] * edit.answers.shape[1]].unflatten(0, edit.answers.shape[:2])
        arrays["labels"], arrays["class_names"] = of_answers.numpy(), np.array(dataset.class_names)
        numbers = numbers | {"classes": [dataset.named(row) for row in of_answers]}
    with write_atomically(paths[1]) as temporary:
        np.savez_compressed(temporary, **arrays)
    with replacing(paths[2], edit.numbers.get("settings", {})), write_atomically(paths[2]) as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return paths


def _examples(x: Tensor, dataset: Dataset) -> np.ndarray:
    """Return examples in model units as files have them: uint8 images `(N, H, W, C)`, or in data units."""
    return dataset.to_uint8(x).numpy() if dataset.is_image else dataset.units.decode(x).numpy()


def _save_others(path: Path, edit: Edit, dataset: Dataset, arrays: dict[str, Any]) -> None:
    """Write what is no picture in data units; but vectors, whose columns may be of any scale, in model units."""
    if dataset.kind == "vectors":
        observed = None if edit.observed is None else edit.observed.numpy()
        save_answers(path, dataset.kind, edit.inputs.numpy(), observed, edit.answers.numpy())
    else:
        save_answers(path, dataset.kind, arrays["inputs"], arrays.get("observed"), arrays["answers"])


def _save_pictures(path: Path, edit: Edit, dataset: Dataset) -> None:
    """Write a row of pictures for each input."""
    columns = [edit.inputs] + ([] if edit.observed is None else [edit.observed])
    columns += list(edit.answers.unbind(1))
    of_latents = isinstance(dataset.units, Latents)
    if edit.answers.shape[1] > 1 and edit.observed is not None and not of_latents:
        # Black shows no spread, and white one as large as half of all levels.
        columns.append(dataset.quantised.low + 2 * edit.spread)
    shown = torch.stack(columns, 1)
    save_grid(path, dataset.to_uint8(shown.flatten(0, 1)).numpy(), columns=len(columns))
