"""What somebody asks for, as a condition that a model is told: by name, in data units, one row or one for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.files import open_npz
from score_sde.data import Dataset
from score_sde.data.captions import Words
from score_sde.data.embedded import Embedded
from score_sde.data.low_resolution import LOW_RESOLUTION, NOISE, clean
from score_sde.data.sources.arrays import meaning
from score_sde.data.sources.condition_arrays import CLASSES, name_of, unknown
from score_sde.data.sources.examples import as_array
from score_sde.experiment import build
from score_sde.experiment.captions import told_captions
from score_sde.experiment.conditions import class_numbers, is_class_conditional
from score_sde.experiment.low_resolution import always_told


def condition_of(
    config: ConfigDict, dataset: Dataset, given: Any, count: int | None, otherwise: int | None = None
) -> tuple[Condition, int]:
    """Return the condition of `count` examples, and their number, which rows decide where it is None.

    Args:
        config: the configuration of the model.
        dataset: what is known of its data.
        given: classes, by name or number; numbers, as the data had them; or several of these by name. Of each, one for
            all examples or one for each. Or a condition that this made before.
        count: the number of examples.
        otherwise: their number where neither `count` nor rows decide it; as many as are sampled, if left out.

    Raises:
        UserError: the model knows no such condition, or it has another shape, or another number of rows.
    """
    if isinstance(given, Condition):
        return _of_condition(given, count)
    rows = {name: _rows(config, dataset, name, value) for name, value in by_name(config, dataset, given).items()}
    if not rows:
        raise UserError("the condition says nothing: leave it out")
    if count is None:
        default = config.sampling.num_samples if otherwise is None else otherwise
        count = max((len(value) for value, alone in rows.values() if not alone), default=default)
    values = {}
    for name, (value, _) in rows.items():
        if len(value) not in (1, count):
            what = "classes" if name == "class" else f"rows of {name!r}"
            raise UserError(f"{len(value)} {what} for {count} examples: give one for all, or one for each")
        values[name] = value.expand(count, *value.shape[1:])
    if LOW_RESOLUTION in values and NOISE in dataset.condition_units and NOISE not in values:
        values |= dataset.told({NOISE: clean(count)})
    return Condition(values), count


def condition_of_file(config: ConfigDict, dataset: Dataset, path: Path, count: int) -> Condition:
    """Return the condition of `count` examples that a file has, `.npz` by name, or `.npy`; rows are taken in turn.

    Raises:
        UserError: the file cannot be read, the model knows no such condition, or rows do not divide `count`.
    """
    try:
        if path.suffix.lower() == ".npy":
            given: Any = np.load(path, allow_pickle=False)
        else:
            with open_npz(path) as content:
                given = {name: content[name] for name in content if meaning(name) != "examples"}
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: save arrays by name, np.savez(path, condition=…)") from error
    if isinstance(given, dict):
        known = build.told_names(config, dataset)
        given = {name if name in CLASSES else name_of(name, known) or name: array for name, array in given.items()}
    condition, rows = condition_of(config, dataset, given, None if _has_rows(dataset, given) else 1)
    if count % rows:
        raise UserError(f"{path} has {rows} rows, which cannot be shared evenly by {count} samples")
    return condition[torch.arange(count) % rows]


def observed(config: ConfigDict, dataset: Dataset, given: Any) -> Condition:
    """Return the condition with as many rows as are given, one where they are given by themselves; as `condition_of`.

    Raises:
        UserError: as of `condition_of`.
    """
    return condition_of(config, dataset, given, None, otherwise=1)[0]


def check_heard(
    config: ConfigDict, dataset: Dataset, condition: Condition | None, controls: Collection[str] = ()
) -> None:
    """See that a model which was always told of its conditions is told of them, but for `controls`, which may be left
    out: without them it is the frozen model.

    Raises:
        UserError: one is missing; the line names it.
    """
    told = {*controls} if condition is None else {*controls, *condition.values}
    names = (*(["class"] if is_class_conditional(config) else []), *build.told_names(config, dataset))
    missing = [name for name in names if name not in told]
    if always_told(config) and LOW_RESOLUTION in missing:
        raise UserError(
            "this model enlarges pictures: give small ones, condition={'low_resolution': …} from Python, or a file, "
            "--config.sampling.condition=FILE.npz; likelihood.given=own takes those of the data"
        )
    if missing and not config.training.label_dropout:
        raise UserError(
            f"this model was trained with its condition never hidden (training.label_dropout=0), and knows no p(x): "
            f"tell it of {', '.join(missing)}, too"
        )


def _of_condition(given: Condition, count: int | None) -> tuple[Condition, int]:
    """Return a condition with as many rows as are asked for, if it has one, or these already."""
    if count is not None and len(given) not in (1, count):
        raise UserError(f"{len(given)} rows of a condition for {count} examples: give one for all, or one for each")
    return (given, len(given)) if count in (None, len(given)) else (given[torch.zeros(count, dtype=torch.long)], count)


def by_name(config: ConfigDict, dataset: Dataset, given: Any) -> dict[str, Any]:
    """Return what is asked for by the names that the model knows."""
    names = build.told_names(config, dataset)
    if not isinstance(given, Mapping):
        # Small pictures given by themselves have no noise.
        names = tuple(name for name in names if name != NOISE)
        if names and (len(names) > 1 or config.model.class_conditional):
            known = ", ".join([*(["class"] if config.model.class_conditional else []), *names])
            raise UserError(f"this model knows several conditions, {known}: say which, condition={{name: values}}")
        return {names[0] if names else "class": given}
    named: dict[str, Any] = {}
    for key, value in given.items():
        name = "class" if key in CLASSES else str(key)
        if name not in names and not (name == "class" and dataset.num_classes):
            raise unknown(str(key), [*(["class"] if dataset.num_classes else []), *names], "this model")
        named[name] = value
    return named


def _rows(config: ConfigDict, dataset: Dataset, name: str, value: Any) -> tuple[Tensor, bool]:
    """Return what the model is told of each example, `(N, …)`, and whether one was given by itself, for all."""
    if name == "class":
        alone = isinstance(value, str) or np.ndim(value) == 0
        items = [value] if alone else value
        plain = [item.item() if isinstance(item, Tensor | np.generic | np.ndarray) else item for item in items]
        return class_numbers(dataset, plain), alone
    units = dataset.condition_units[name]
    if isinstance(units, Words | Embedded):
        alone = isinstance(value, str) or np.ndim(value) == 0
        return told_captions(config, name, units, [value] if alone else value), alone
    array, shape = as_array(value), units.shape
    if array.dtype.kind not in "fiub":
        raise UserError(f"the condition {name!r} is made of real numbers, not {array.dtype}")
    alone = array.shape == shape or (shape == (1,) and array.ndim == 0)
    if alone:
        array = array.reshape(1, *shape)
    elif shape == (1,) and array.ndim == 1:
        array = array[:, None]
    if array.shape[1:] != shape or not len(array):
        raise UserError(f"the condition {name!r} has shape {shape}, or (N, …) for several, not {array.shape}")
    finite = np.isfinite(array).reshape(len(array), -1).all(1)
    if not finite.all():
        raise UserError(f"the condition {name!r} has numbers that are not finite, first in row {int(finite.argmin())}")
    return dataset.told({name: torch.from_numpy(np.ascontiguousarray(array))})[name], alone


def _has_rows(dataset: Dataset, given: Any) -> bool:
    """Return whether any array of a file has rows."""
    shapes = {name: units.shape for name, units in dataset.condition_units.items()}
    arrays = given if isinstance(given, dict) else {next(iter(shapes), "class"): given}
    texts = {name for name, units in dataset.condition_units.items() if isinstance(units, Words | Embedded)}
    return any(np.ndim(array) > (0 if name in texts else len(shapes.get(name, ()))) for name, array in arrays.items())
