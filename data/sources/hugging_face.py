"""Datasets of the Hugging Face library (`pip install score-sde[huggingface]`): local parquet files, or by name.

hf:ylecun/mnist        from the hub, or from the library's cache
photos.parquet         one file
photos/                a folder with parquet files in it

A column `caption` or `text` has captions (`data.sources.caption_columns`). The words of a name say which part of the
data it is: `train-00000.parquet`, the library's split `validation` (see `data.words`).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.captions import CAPTION
from score_sde.data.sources.caption_columns import caption_column, captions_of, unread_texts
from score_sde.data.sources.classes import names_of
from score_sde.data.sources.found import Found, Pictures
from score_sde.data.sources.picture_format import Unreadable
from score_sde.data.words import PARTS, Part, listed, part_of, settle

if TYPE_CHECKING:
    from PIL import Image

HUB = "hf:"
_CLASS_COLUMNS = ("label", "labels", "class", "classes", "target", "targets", "y", "fine_label")


def is_parquet(path: Path) -> bool:
    """Return whether this is a parquet file, or a folder that has some."""
    return bool(_parquet_files(path)) if path.is_dir() else path.suffix.lower() == ".parquet"


def has_pictures(path: Path) -> bool:
    """Return whether parquet files have a column of pictures, which are structures; also if none can be read.

    Raises:
        UserError: the library is not installed.
    """
    try:
        from pyarrow import types
        from pyarrow.parquet import read_schema
    except ImportError as error:
        raise UserError("parquet files need: pip install 'score-sde[tables]', or of pictures [huggingface]") from error
    kinds = []
    for file in [path] if path.is_file() else _parquet_files(path):
        # Damaged files fail in many ways, and are named when they are read.
        with suppress(Exception):
            kinds += read_schema(file).types
    return not kinds or any(map(types.is_struct, kinds))


def read_hugging_face(place: str, condition: Sequence[str] = ()) -> Found:
    """Find the pictures of a dataset, by its parts.

    Args:
        place: `hf:` and a name, or a path.
        condition: the column of captions, where it has no usual name.

    Raises:
        UserError: the library is not installed, there is no such dataset, or it has no pictures.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face datasets need: pip install 'score-sde[huggingface]'") from error
    datasets.disable_progress_bars()
    # What the library logs of damaged files is said by us.
    datasets.logging.set_verbosity(logging.CRITICAL)
    notes: list[str] = []
    from_hub = place.startswith(HUB)
    tables = _from_hub(place, notes) if from_hub else _from_files(Path(place), notes)
    parts: dict[Part, Pictures] = {}
    order: tuple[str, ...] = ()
    for part in PARTS:
        if part in tables:
            parts[part], names = _pictures(tables[part], place, condition)
            if part == "train":
                order = names
                notes += _unread_classes(tables[part], place)
                features = tables[part].features
                notes += unread_texts(features, caption_column(features, condition, place), place)
    return Found(parts, order, tuple(notes))


def _from_hub(place: str, notes: list[str]) -> dict[Part, Any]:
    """Load the library's table of each part of a dataset on the hub."""
    import datasets

    try:
        loaded = datasets.load_dataset(place.removeprefix(HUB))
    except Exception as error:  # hub, network and file errors of many libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read the dataset {place}: {reason}") from error
    return {part: loaded[name] for part, name in _splits(loaded, place, notes).items()}


def _from_files(path: Path, notes: list[str]) -> dict[Part, Any]:
    """Load the library's table of each part from parquet files.

    Of files read together the library takes the first one's description of columns for all, so that where others number
    their classes differently, these would get wrong names. So each part is read by itself, and its files must agree.

    Raises:
        UserError: a file is damaged, or the files of a part number classes differently.
    """
    import datasets
    from pyarrow.parquet import read_schema

    tables: dict[Part, Any] = {}
    for part, files in files_of_parts(path, notes).items():
        try:
            features = [datasets.Features.from_arrow_schema(read_schema(file)) for file in files]
            tables[part] = datasets.load_dataset("parquet", data_files=list(map(escape, files)), split="train")
        except Exception as error:  # damaged files fail in many ways
            raise UserError(f"cannot read the dataset {path}: its {part} part is damaged") from error
        numberings = [
            {column: kind.names for column, kind in of_file.items() if isinstance(kind, datasets.ClassLabel)}
            for of_file in features
        ]
        other = next((file for file, names in zip(files, numberings, strict=True) if names != numberings[0]), None)
        if other is not None:
            raise UserError(
                f"{path}: {files[0]} and {other}, both of the {part} part, number their classes differently: write "
                "them with one description"
            )
    return tables


def _splits(loaded: Any, place: str, notes: list[str]) -> dict[Part, str]:
    """Return the name of the library's split for each part."""
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


def files_of_parts(path: Path, notes: list[str]) -> dict[Part, list[str]]:
    """Return the parquet files of each part."""
    if path.is_file():
        return {"train": [str(path)]}
    told: dict[Part | None, list[str]] = {}
    for file in _parquet_files(path):
        told.setdefault(part_of(str(file.relative_to(path)), str(path)), []).append(str(file))
    files, others = settle(told, str(path), notes)
    if others:
        raise UserError(f"{path} has {listed(others)} beside its training part: which part of the data are they?")
    return files


def _pictures(part: Any, place: str, condition: Sequence[str]) -> tuple[Pictures, tuple[str, ...]]:
    """Return the pictures of a part, a `datasets.Dataset`, and all its classes if it says their order."""
    import datasets
    from PIL import Image

    features = part.features
    columns = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        # Pictures as the library stores them, without its description.
        columns = [name for name, kind in features.items() if isinstance(kind, dict) and "bytes" in kind]
    if len(columns) != 1:
        what = f"several with pictures ({listed(columns)}): keep one" if columns else "none of which holds pictures"
        raise UserError(f"{place} has the columns {listed(features)}, {what}")
    classes, order = _classes(part, place)
    texts = caption_column(features, condition, place)
    captions = None if texts is None else captions_of(part, texts, place)

    # They stay files: decoded by the library, they would have lost how many bits and frames they had.
    packed = part.cast_column(columns[0], datasets.Image(decode=False))

    def picture(row: int) -> Image.Image:
        file = packed[row][columns[0]]
        if file is None or (file["bytes"] is None and file["path"] is None):
            raise Unreadable("there is no picture")
        if file["bytes"] is not None:
            return Image.open(io.BytesIO(file["bytes"]))
        if Path(file["path"]).exists():
            return Image.open(file["path"])
        return datasets.Image().decode_example(file)

    rows = range(len(part))
    places, names = [f"{place}[{row}]" for row in rows], [str(row) for row in rows]
    told = {} if captions is None else {CAPTION: captions}
    return Pictures(places, names, picture, part._fingerprint, classes, told), order


def _class_column(part: Any) -> str | None:
    return next((name for name in _CLASS_COLUMNS if name in part.features), None)


def _unread_classes(part: Any, place: str) -> list[str]:
    """Write a note on columns of classes beside the one that is read, if there are any."""
    import datasets

    column = _class_column(part)
    classes = [name for name, kind in part.features.items() if isinstance(kind, datasets.ClassLabel)]
    others = [name for name in part.features if name != column and (name in _CLASS_COLUMNS or name in classes)]
    why = f", but those of {column}" if column else f": call the one to read {_CLASS_COLUMNS[0]}"
    return [f"{place}: classes of the column {listed(others)} are not read{why}"] if others else []


def _classes(part: Any, place: str) -> tuple[Sequence[str] | None, tuple[str, ...]]:
    """Return what the class of each row is called, or None; and all classes in order, if the library knows it."""
    column = _class_column(part)
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
