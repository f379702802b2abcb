"""What `--mode edit` writes down: pictures side by side, arrays, and numbers.

edit/<task>.png     a row for each input: the input, what was observed of it, answers, their spread
edit/<task>.npz     the same as uint8 images; answers also in model units, float32; their classes, if they have any
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
from score_sde.common.plots import save_grid
from score_sde.data import Dataset
from score_sde.evaluation.provenance import replacing


class Edit(NamedTuple):
    """An edit has pictures before and after, in model units.

    Attributes:
        inputs: the pictures that were given, `(M, C, H, W)`.
        observed: what was observed of each, as pictures; None if nothing was hidden.
        answers: the pictures that were made, `K` for each input, `(M, K, C, H, W)`.
        numbers: what was measured of the whole, by name; `settings` are what the edit was made with.
    """

    inputs: Tensor
    observed: Tensor | None
    answers: Tensor
    numbers: dict[str, Any]

    @property
    def spread(self) -> Tensor:
        """The spread is the standard deviation of the answers to each input, pixel by pixel, `(M, C, H, W)`."""
        return self.answers.std(1) if self.answers.shape[1] > 1 else torch.zeros_like(self.inputs)


def write_edit(edit: Edit, dataset: Dataset, folder: Path, task: str, labels: Tensor | None = None) -> list[Path]:
    """Write pictures, arrays and numbers; return the paths. `labels` `(M K,)` or more are the answers' classes, if any.

    Raises:
        UserError: a file cannot be written.
    """
    paths = [folder / f"{task}.{suffix}" for suffix in ("png", "npz", "json")]
    columns = [edit.inputs] + ([] if edit.observed is None else [edit.observed])
    columns += list(edit.answers.unbind(1))
    if edit.answers.shape[1] > 1 and edit.observed is not None:
        # Black shows no spread, and white one as large as half of all levels.
        columns.append(dataset.quantised.low + 2 * edit.spread)
    shown = torch.stack(columns, 1)
    save_grid(paths[0], dataset.to_uint8(shown.flatten(0, 1)).numpy(), columns=len(columns))
    arrays: dict[str, Any] = {
        "inputs": dataset.to_uint8(edit.inputs).numpy(),
        "answers": np.stack([dataset.to_uint8(each).numpy() for each in edit.answers]),
        "answers_in_model_units": edit.answers.float().numpy(),
        "spread": edit.spread.float().numpy(),
    }
    if edit.observed is not None:
        arrays["observed"] = dataset.to_uint8(edit.observed).numpy()
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
