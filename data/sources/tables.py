"""Tables (`pip install score-sde[tables]`): `.csv` files, whose first line names the columns, and parquet files.

Each column of numbers is a number of the vectors, in the order of the columns; one called class, label or target that
holds words or whole numbers is the class. What else there may be is refused by its column's name.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources.classes import names_of
from score_sde.data.sources.condition_arrays import ONLY, checked, unknown
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.sources.hugging_face import files_of_parts
from score_sde.data.words import PARTS, Part, listed

if TYPE_CHECKING:
    import pandas as pd

_CLASS_COLUMNS = ("class", "classes", "label", "labels", "target", "targets")
_NUM_LISTED = 30


def read_csv(path: Path, condition: Sequence[str] = ()) -> Found:
    """Read a `.csv` file, whose rows are conditioned on the columns `condition`.

    Raises:
        UserError: pandas is not installed, the file is no table, or a column cannot be read.
    """
    import_pandas()
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # A line that is longer than the first would lose what goes beyond.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Later versions read numbers exactly by themselves, and warn of the option.
            warnings.filterwarnings("ignore", "The 'float_precision' argument")
            exact: dict[str, Any] = {"float_precision": "round_trip"} if int(pd.__version__.split(".")[0]) < 4 else {}
            frame = pd.read_csv(path, index_col=False, low_memory=False, **exact)
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory: save it as .npy, which is read piece by piece") from error
    except Exception as error:  # what is no table fails in many ways
        raise UserError(f"cannot read {path}: {_reason(error)}") from error
    if any(_is_number(name) for name in frame.columns):
        raise UserError(f"{path} has the columns {listed(frame.columns)}: its first line must name them")
    return found_in_frame(frame, str(path), condition)


def read_parquet_table(path: Path, condition: Sequence[str] = ()) -> Found:
    """Read a parquet file, or those in a folder, without pictures; rows are conditioned on the columns `condition`.

    Raises:
        UserError: pandas or pyarrow is not installed, a file is damaged, or a column cannot be read.
    """
    import_pandas()
    import pandas as pd
    from pyarrow.parquet import read_table

    notes: list[str] = []
    parts: dict[Part, Arrays] = {}
    files = files_of_parts(path, notes)
    for part in PARTS:
        if part in files:
            try:
                frames = [read_table(file).to_pandas(ignore_metadata=True) for file in files[part]]
            except Exception as error:  # damaged files fail in many ways
                raise UserError(f"cannot read {path}: its {part} part is damaged") from error
            if any(list(frame.columns) != list(frames[0].columns) for frame in frames):
                raise UserError(f"{path}: the files of the {part} part ({listed(files[part])}) have different columns")
            frame = pd.concat(frames, ignore_index=True)
            parts[part] = _vectors(frame, str(path) if len(files) == 1 else f"{path}[{part}]", notes, condition)
    return Found(parts, notes=tuple(dict.fromkeys(notes)))


def found_in_frame(frame: pd.DataFrame, place: str, condition: Sequence[str] = ()) -> Found:
    """Return what is found in one table, a `pandas.DataFrame`, whose rows are conditioned on the columns `condition`.

    Raises:
        UserError: a column cannot be read.
    """
    notes: list[str] = []
    return Found({"train": _vectors(frame, place, notes, condition)}, notes=tuple(notes))


def import_pandas() -> None:
    """Raise UserError if pandas is not installed."""
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise UserError("tables need: pip install 'score-sde[tables]'") from error


def _vectors(frame: pd.DataFrame, place: str, notes: list[str], condition: Sequence[str] = ()) -> Arrays:
    """Return the rows of a table as vectors, with their classes and conditions, and add notes on its columns."""
    from pandas.api import types

    # What is called so is an index that pandas has written.
    index = [name for name in frame.columns if str(name).startswith("__index_level_")]
    if index:
        notes.append(f"{place}: the index {listed(index)} is not read")
    if not len(frame):
        raise UserError(f"{place} has no rows")
    classes = [
        name
        for name in frame.columns
        if str(name).strip().lower() in _CLASS_COLUMNS and not types.is_float_dtype(frame[name].dtype)
    ]
    if len(classes) > 1:
        raise UserError(f"{place} has the columns {listed(classes)}, all of which could be the classes: rename others")
    for name in condition:
        if name not in frame.columns:
            raise unknown(name, [str(column) for column in frame.columns], place)
        _check_column(frame[name], name, place)
    classes = [name for name in classes if name not in condition]
    columns = [name for name in frame.columns if name not in (*index, *classes, *condition)]
    for name in columns:
        _check_column(frame[name], name, place)
    for name in classes:
        _check_missing(frame[name], name, place)
    if not columns:
        raise UserError(f"{place} has no column of numbers, only {listed(frame.columns)}")
    kinds = [frame[name].dtype for name in columns]
    dtype = np.result_type(*[getattr(kind, "numpy_dtype", kind) for kind in kinds])
    if frame[columns].isna().any(axis=None):
        # What is missing is NaN, which whole numbers have not; whether it may be is seen later (`data.sources.floats`).
        dtype = np.result_type(dtype, np.float32)
    vectors = frame[columns].to_numpy(dtype, na_value=np.nan) if dtype.kind == "f" else frame[columns].to_numpy(dtype)
    if vectors.dtype == np.uint8:
        vectors = vectors.astype(np.int16)
    notes.append(f"{place} has vectors of {len(columns)} numbers, its columns {_all(columns)}, in this order")
    named = None
    for name in classes:
        values = frame[name]
        array = values.to_numpy() if types.is_integer_dtype(values.dtype) else values.to_numpy(str)
        named = names_of(array, len(frame), f"{place}, column {name},")
        notes.append(f"{place}: the column {name} is read as the class of each example")
    told = {}
    if condition:
        notes.append(f"{place}: the columns {_all(condition)} are read as what each example is conditioned on")
        told[ONLY] = checked(ONLY, frame[list(condition)].to_numpy(np.float64), len(frame), place)
    return Arrays(place, np.ascontiguousarray(vectors), named, tuple(map(str, columns)), told)


def _check_column(values: pd.Series, name: Any, place: str) -> None:
    """See that a column holds numbers."""
    from pandas.api import types

    if str(name).startswith("Unnamed: "):
        raise UserError(
            f"{place} has a column without a name, number {str(name).removeprefix('Unnamed: ')}: name it, or leave it "
            "out (an index, as to_csv(index=False) does)"
        )
    if types.is_bool_dtype(values.dtype) or not types.is_numeric_dtype(values.dtype):
        first = str(next(iter(values.dropna()), ""))
        hint = ""
        if ";" in str(name) or "\t" in str(name):
            hint = "; columns are separated by commas"
        raise UserError(
            f"{place}: column {name} has no numbers, but {first[:40]!r} and the like: leave it out, or, if these are "
            f"the classes, call it class{hint}"
        )
    if types.is_complex_dtype(values.dtype):
        raise UserError(f"{place}: column {name} has complex numbers: give their parts as two columns")


def _check_missing(values: pd.Series, name: Any, place: str) -> None:
    """See that every example has a class."""
    missing = np.flatnonzero(values.isna().to_numpy())
    if len(missing):
        others = f" ({len(missing)} are missing)" if len(missing) > 1 else ""
        raise UserError(
            f"{place}: column {name} has no value in row {missing[0]}{others}: leave out the row, or the column"
        )


def _all(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:_NUM_LISTED])) + (", …" if len(names) > _NUM_LISTED else "")


def _is_number(name: Any) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return str(name).strip().lower() not in ("nan", "inf", "infinity")


def _reason(error: Exception) -> str:
    """Say what is wrong with a file, in our words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if type(error).__name__ == "EmptyDataError":
        return "there is nothing in it"
    return "its lines have not all as many columns as the first"
