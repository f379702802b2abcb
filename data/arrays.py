"""NumPy files: `.npy`, one array; `.npz`, arrays by name.

    pictures    `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, uint8, with 1 or 3 channels
    vectors     `(N, d)`, floating point

In an `.npz` file the training part is called `x_train`, `train_images`, `train`, `images`, `x`, `data` or `arr_0`, the
test part, if there is one, `x_test`, `test_images` or `test`; classes are `y_train`, `train_labels`, `labels`, `y`,
and `y_test`, `test_labels`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from errors import UserError

_TRAIN = ("x_train", "train_images", "train", "images", "x", "data", "arr_0")
_TEST = ("x_test", "test_images", "test")
_TRAIN_CLASSES = ("y_train", "train_labels", "labels", "y")
_TEST_CLASSES = ("y_test", "test_labels")


class Arrays(NamedTuple):
    """Examples in memory.

    Attributes:
        train: pictures `(N, C, H, W)`, uint8, or vectors `(N, d)`, float32.
        test: likewise; None if there is no such part.
        classes: of training examples `(N,)`, int64, or None.
        test_classes: of test examples, likewise.
    """

    train: np.ndarray
    test: np.ndarray | None = None
    classes: Tensor | None = None
    test_classes: Tensor | None = None


def read_numpy(path: Path) -> Arrays:
    """Read a `.npy` or `.npz` file; nothing in it is unpickled.

    Raises:
        UserError: it is damaged, or not such an array.
    """
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return Arrays(examples(content, str(path)))
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    train, test = _find(arrays, _TRAIN), _find(arrays, _TEST)
    if train is None:
        raise UserError(f"{path} has arrays {', '.join(arrays)}; call that of training examples {_TRAIN[0]}")
    train_classes, test_classes = _find(arrays, _TRAIN_CLASSES), _find(arrays, _TEST_CLASSES)
    return Arrays(
        examples(arrays[train], f"{path}[{train}]"),
        None if test is None else examples(arrays[test], f"{path}[{test}]"),
        None if train_classes is None else classes_of(arrays[train_classes], arrays[train], f"{path}[{train_classes}]"),
        None if test_classes is None or test is None else classes_of(arrays[test_classes], arrays[test], str(path)),
    )


def examples(array: np.ndarray, where: str) -> np.ndarray:
    """Pictures as `(N, C, H, W)` uint8, or vectors as `(N, d)` float32.

    Raises:
        UserError: the array is neither.
    """
    if array.dtype == np.uint8 and array.ndim == 3:
        return array[:, None]
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 2 and np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise UserError(f"{where} has numbers that are not finite")
        return array.astype(np.float32)
    raise UserError(
        f"{where} has {array.dtype} numbers of shape {array.shape}: pictures are uint8 (N, H, W), (N, H, W, C) or "
        "(N, C, H, W), vectors are floats (N, d)"
    )


def classes_of(array: np.ndarray, examples: np.ndarray, where: str) -> Tensor:
    """Classes `(N,)`, int64.

    Raises:
        UserError: they are not whole numbers from 0, one an example.
    """
    flat = array.reshape(-1)
    if len(flat) != len(examples) or not np.issubdtype(flat.dtype, np.integer) or (len(flat) and flat.min() < 0):
        raise UserError(f"{where} has {array.dtype} classes of shape {array.shape} for {len(examples)} examples")
    return torch.from_numpy(flat.astype(np.int64))


def _find(arrays: Iterable[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in arrays), None)
