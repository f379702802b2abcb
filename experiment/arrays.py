"""Examples that come from Python: one or many, NumPy or torch, of any dtype, as a dataset has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data import Dataset


def as_array(x: Any) -> np.ndarray:
    """Return numbers as an array, wherever they lie; NumPy has no bfloat16, which become float32."""
    if not isinstance(x, Tensor):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def as_examples(dataset: Dataset, x: Any, gaps: bool = False) -> tuple[Tensor, bool]:
    """Return examples `(N, *shape)` in the format of a dataset, and whether `x` was one example by itself.

    Args:
        dataset: what examples are like; its own need not be there.
        x: examples of its shape, or one; pictures may have their channels last, or, with one channel, none.
        gaps: whether numbers may be missing, as NaN.

    Raises:
        UserError: examples have another shape, or numbers that the data cannot have.
    """
    array = as_array(x)
    if array.dtype.kind not in "fiub" or array.dtype == bool:
        raise UserError(f"examples are real numbers, not {array.dtype}")
    array, alone = _with_shape(dataset, array)
    if array.size == 0:
        raise UserError("there is no example")
    wrong = np.isinf(array) if gaps and dataset.levels is None else ~np.isfinite(array)
    if wrong.any():
        example = int(np.argwhere(wrong)[0][0])
        raise UserError(f"example {example} has numbers that are not finite")
    if dataset.levels is None:
        return torch.from_numpy(np.ascontiguousarray(array)).to(dataset.train.dtype), alone
    if not (array == np.floor(array)).all() or array.min() < 0 or array.max() >= dataset.levels:
        raise UserError(
            f"{dataset.name} has levels, whole numbers from 0 to {dataset.levels - 1}; these numbers lie from "
            f"{array.min():g} to {array.max():g}"
        )
    return torch.from_numpy(array.astype(np.uint8)), alone


def _with_shape(dataset: Dataset, array: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return an array as `(N, *shape)`, and whether it was one example."""
    shape = dataset.shape
    layouts: list[tuple[tuple[int, ...], Any]] = [(shape, lambda many: many)]
    if dataset.is_image:
        channels, *sizes = shape
        layouts.append(((*sizes, channels), lambda many: np.moveaxis(many, -1, 1)))
        if channels == 1:
            layouts.append((tuple(sizes), lambda many: many[:, None]))
    for layout, arranged in layouts:
        if array.shape == layout:
            return arranged(array[None]), True
        if array.shape[1:] == layout:
            return arranged(array), False
    raise UserError(f"examples of {dataset.name} have shape {shape}, or (N, …) for several, not {array.shape}")
