"""Datasets of the Hugging Face library (`pip install score-sde[huggingface]`): local parquet files, or by name.

hf:ylecun/mnist        from the hub, or from the library's cache
photos.parquet         one file
photos/                a folder with parquet files in it

The words of a name say which part of the data it is: `train-00000.parquet`, the library's split `validation` (see
`data.words`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.classes import names_of
from data.found import Found, Pictures
from data.words import PARTS, Part, listed, part_of
from errors import UserError

HUB = "hf:"
_CLASS_COLUMNS = ("label", "labels", "class", "classes", "fine_label")


def is_parquet(path: Path) -> bool:
    """Whether this is a parquet file, or a folder that has some."""
    return path.suffix.lower() == ".parquet" or (path.is_dir() and bool(_parquet_files(path)))


def read_hugging_face(place: str) -> Found:
    """The pictures of a dataset, by its parts.

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
    datasets.logging.set_verbosity_error()
    notes: list[str] = []
    if place.startswith(HUB):
        loaded = _loaded(place, place.removeprefix(HUB))
        sources = {part: loaded[split] for part, split in _splits(loaded, place, notes).items()}
    else:
        # One by one: of several parts the library takes the first one's description of classes for all.
        files = _files(Path(place), notes)
        sources = {part: _loaded(place, "parquet", data_files=_alike(files[part]))["train"] for part in files}
    parts: dict[Part, Pictures] = {}
    order: tuple[str, ...] = ()
    for part in PARTS:
        if part in sources:
            parts[part], names = _pictures(sources[part], place)
            order = names if part == "train" else order
    return Found(parts, order, tuple(notes))


def _loaded(place: str, *arguments: str, **options: Any) -> Any:
    """What the library loads; its progress bars and notices are not shown."""
    import datasets

    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:  # hub, network and file errors of many libraries
        reason = "it is damaged"
        if place.startswith(HUB):
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read the dataset {place}: {reason}") from error


def _alike(files: list[str]) -> list[str]:
    """The files of one part.

    Raises:
        UserError: one is damaged, or they have other columns, or number other classes, than the first.
    """
    import pyarrow.parquet

    described = []
    for file in files:
        try:
            schema = pyarrow.parquet.read_schema(file)
        except Exception as error:
            raise UserError(f"cannot read the dataset {file}: it is damaged") from error
        description = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        described.append((schema, description.get("info", {}).get("features")))
        if not (schema.equals(described[0][0]) and described[-1][1] == described[0][1]):
            raise UserError(f"{file} describes its columns or classes otherwise than {files[0]}, of the same part")
    return files


def _splits(loaded: Any, place: str, notes: list[str]) -> dict[Part, str]:
    """The library's split for each part."""
    splits: dict[Part, str] = {}
    for name in loaded:
        part = part_of(name, place)
        if part is None:
            notes.append(f"{place}: the split {name} is not read")
        elif part in splits:
            raise UserError(f"{place} has the splits {splits[part]} and {name}, both for its {part} part")
        else:
            splits[part] = name
    if "train" not in splits:
        raise UserError(f"{place} has the parts {listed(loaded)}, but no part to train on, called train")
    return splits


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".parquet" and path.is_file())


def _files(path: Path, notes: list[str]) -> dict[Part, list[str]]:
    """The files of each part."""
    if path.is_file():
        return {"train": [str(path)]}
    told: dict[Part | None, list[str]] = {}
    for file in _parquet_files(path):
        told.setdefault(part_of(str(file.relative_to(path)), str(path)), []).append(str(file))
    rest = told.pop(None, [])
    files: dict[Part, list[str]] = {part: told[part] for part in PARTS if part in told}
    if "train" in files:
        if rest:
            raise UserError(f"{path} has {listed(rest)} beside its training part: which part of the data are they?")
        return files
    if not rest:
        if len(files) > 1:
            raise UserError(f"{path} has parquet files for {listed(files)}, but none to train on, called train")
        [(part, rest)] = files.items()
        files = {}
        notes.append(f"{path} has a {part} part alone: it is trained on, but for a share of it")
    return {"train": rest, **files}


def _pictures(part: Any, place: str) -> tuple[Pictures, tuple[str, ...]]:
    """The pictures of a part, a `datasets.Dataset`, and all its classes if it says their order."""
    import datasets

    features = part.features
    columns = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        # Pictures as the library stores them, without its description.
        columns = [name for name, kind in features.items() if isinstance(kind, dict) and "bytes" in kind]
        part = part.cast_column(columns[0], datasets.Image()) if len(columns) == 1 else part
    if len(columns) != 1:
        what = f"several with pictures ({listed(columns)}): keep one" if columns else "none of which holds pictures"
        raise UserError(f"{place} has the columns {listed(features)}, {what}")
    classes, order = _classes(part, place)

    def picture(row: int) -> Image.Image:
        return part[row][columns[0]]

    rows = range(len(part))
    return Pictures(
        [f"{place}[{row}]" for row in rows], [str(row) for row in rows], picture, part._fingerprint, classes
    ), order


def _classes(part: Any, place: str) -> tuple[Sequence[str] | None, tuple[str, ...]]:
    """What the class of each row is called, or None; and all of them, if the library knows their order."""
    column = next((name for name in _CLASS_COLUMNS if name in part.features), None)
    if column is None:
        return None, ()
    names = tuple(getattr(part.features[column], "names", None) or ())
    values = part[column][:]
    if None in values:
        missing = sum(value is None for value in values)
        if missing == len(values):
            return None, ()
        raise UserError(f"{place}: column {column} has no class for {missing} of {len(values)} rows: leave them out")
    found = names_of(np.asarray(values), len(values), f"{place}, column {column},")
    return (found if found is None or not names else [names[int(number)] for number in found]), names
