"""Users' own data, by path: what it is is told from its name and content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.arrays import Arrays, read_numpy
from data.cifar10 import is_cifar10, read_cifar10
from data.hugging_face import HUB, is_parquet, read_hugging_face
from data.idx import is_idx, read_idx_files
from data.image_files import find_image_files
from data.pictures import PictureFormat, from_array, prepare
from data.split import Parts, split
from errors import UserError


def load_path(
    place: str,
    *,
    image_size: int | None,
    num_channels: int | None,
    levels: int,
    cache: Path,
    test_share: float = 0.1,
    split_seed: int = 0,
    skip_damaged: bool = False,
) -> Parts:
    """The data at a place.

    Args:
        place: a folder or zip archive of images; a `.npy` or `.npz` file; an IDX file or a folder of them; CIFAR-10's
            folder of batches; a parquet file, a folder of them, or `hf:` and the name of a Hugging Face dataset.
        image_size: height and width to crop and resize to; left as they are if None, which images files cannot be.
        num_channels: 1, grey, or 3, colour; as they are if None, image files in colour.
        levels: of brightness. NumPy arrays hold the levels as they are; others have 256, which are reduced to so many.
        cache: folder where prepared pictures are kept.
        test_share: of the examples, if no part of them is to test on.
        split_seed: decides which.
        skip_damaged: leave out pictures that cannot be read, instead of refusing.

    Raises:
        UserError: there is nothing there, it is damaged, or it is nothing of the above.
    """
    options: dict[str, Any] = {"test_share": test_share, "split_seed": split_seed}
    path = Path(place)
    if not place.startswith(HUB) and not path.exists():
        raise UserError(f"there is no {place}, which data.path names")
    arrays = _arrays(path) if not place.startswith(HUB) else None
    if arrays is None:
        pictures, test = read_hugging_face(place) if _is_hugging_face(place) else find_image_files(path)
        if image_size is None:
            raise UserError(f"pictures of {place} are resized: give their size, as in --config.data.image_size=32")
        form = PictureFormat(image_size, num_channels or 3, levels)
        return prepare(pictures, test, form, cache, skip_damaged=skip_damaged, **options)
    if arrays.train.ndim == 2:
        return _in_memory(arrays, None, **options)
    own_levels = 256
    if path.suffix in (".npy", ".npz"):
        own_levels, highest = levels, int(arrays.train.max(initial=0))
        if highest >= levels:
            raise UserError(f"{place} has levels up to {highest}: give --config.data.levels={highest + 1} or more")
    channels, *size = arrays.train.shape[1:]
    form = PictureFormat(image_size or min(size), num_channels or channels, levels)
    if (form.size, form.size) == tuple(size) and form.channels == channels and levels == own_levels:
        return _in_memory(arrays, levels, **options)
    if path.suffix in (".npy", ".npz") and levels != 256:
        raise UserError(f"{place} holds {levels} levels as they are, which cannot be resized: leave out image_size")
    version = _stamps(path)
    train = from_array(arrays.train, place, [version, "train"], arrays.classes)
    test = None if arrays.test is None else from_array(arrays.test, place, [version, "test"], arrays.test_classes)
    return prepare(train, test, form, cache, skip_damaged=skip_damaged, **options)


def _arrays(path: Path) -> Arrays | None:
    """What is read into memory; None if there is no such thing there."""
    if path.suffix in (".npy", ".npz"):
        return read_numpy(path)
    if is_idx(path) or (path.is_dir() and any(map(is_idx, path.iterdir()))):
        return read_idx_files(path)
    if is_cifar10(path):
        return read_cifar10(path)
    if path.is_file() and path.suffix not in (".zip", ".parquet"):
        raise UserError(
            f"{path} is none of a folder or zip of images, .npy, .npz, IDX (…idx3-ubyte, .gz), CIFAR-10's folder of "
            "batches, .parquet, or hf:NAME"
        )
    return None


def _is_hugging_face(place: str) -> bool:
    return place.startswith(HUB) or is_parquet(Path(place))


def _in_memory(arrays: Arrays, levels: int | None, test_share: float, split_seed: int) -> Parts:
    """Arrays as they are; a test part is taken from them if they have none."""
    train = torch.from_numpy(np.ascontiguousarray(arrays.train))
    if arrays.test is not None:
        test = torch.from_numpy(np.ascontiguousarray(arrays.test))
        return Parts(train, test, levels, arrays.classes, arrays.test_classes)
    rest, taken = split(len(train), test_share, split_seed, arrays.classes, "data.test_share")

    def of(rows: Tensor) -> Tensor | None:
        return None if arrays.classes is None else arrays.classes[rows]

    return Parts(train[rest], train[taken], levels, of(rest), of(taken))


def _stamps(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return json.dumps([[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files])
