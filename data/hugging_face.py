"""Datasets of the Hugging Face library (`pip install score-sde[huggingface]`): local parquet files, or by name.

hf:ylecun/mnist        from the hub, or from the library's cache; its parts `train` and `test`
photos.parquet         one file
photos/*.parquet       a folder of them; `train-…` and `test-…`, or all to train on
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.pictures import Pictures
from errors import UserError

HUB = "hf:"
_CLASS_COLUMNS = ("label", "labels", "class", "fine_label")


def is_parquet(path: Path) -> bool:
    """Whether this is a parquet file, or a folder that has some."""
    return path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")))


def read_hugging_face(place: str) -> tuple[Pictures, Pictures | None]:
    """The training pictures, and the test pictures if there is such a part.

    Args:
        place: `hf:` and a name, or a path.

    Raises:
        UserError: the library is not installed, there is no such dataset, or it has no pictures.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face datasets need: pip install 'score-sde[huggingface]'") from error
    datasets.disable_progress_bars()
    try:
        if place.startswith(HUB):
            parts = datasets.load_dataset(place.removeprefix(HUB))
        else:
            parts = datasets.load_dataset("parquet", data_files=_files(Path(place)))
    except Exception as error:  # hub, network and file errors of many libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read the dataset {place}: {reason}") from error
    if "train" not in parts:
        raise UserError(f"{place} has the parts {', '.join(parts)}, but no part to train on, called train")
    train = _pictures(parts["train"], place)
    return train, _pictures(parts["test"], place) if "test" in parts else None


def _files(path: Path) -> Mapping[str, list[str]]:
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    test = [str(file) for file in files if file.name.startswith("test") and len(files) > 1]
    train = [str(file) for file in files if str(file) not in test]
    return {"train": train, "test": test} if test else {"train": train}


def _pictures(part: Any, place: str) -> Pictures:
    """`part` is a `datasets.Dataset`."""
    import datasets

    features = part.features
    column = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        # Pictures as the library stores them, without its description.
        column = next((name for name, kind in features.items() if isinstance(kind, dict) and "bytes" in kind), None)
        if column is None:
            raise UserError(f"{place} has the columns {', '.join(features)}, none of which holds pictures")
        part = part.cast_column(column, datasets.Image())
    labels = next((name for name in _CLASS_COLUMNS if name in features), None)
    classes, names = None, ()
    if labels is not None:
        numbers = np.asarray(part[labels][:])
        if np.issubdtype(numbers.dtype, np.integer) and numbers.min() >= 0:
            classes = torch.from_numpy(numbers.astype(np.int64))
            names = tuple(getattr(features[labels], "names", ()))

    def picture(row: int) -> Image.Image:
        return part[row][column]

    return Pictures([f"{place}[{row}]" for row in range(len(part))], picture, part._fingerprint, classes, names)
