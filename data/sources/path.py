"""Users' own data, by path: their kind is told from name and content."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from score_sde.common.errors import UserError
from score_sde.data.sources.array_parts import load_arrays
from score_sde.data.sources.arrays import read_numpy
from score_sde.data.sources.caption_files import with_captions
from score_sde.data.sources.cifar10 import is_cifar10, read_cifar10
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.sources.hdf5 import read_hdf5
from score_sde.data.sources.hugging_face import HUB, has_pictures, is_parquet, read_hugging_face
from score_sde.data.sources.idx import is_idx, read_idx_files
from score_sde.data.sources.image_files import count_unread, find_image_files
from score_sde.data.sources.picture_pairs import with_pairs
from score_sde.data.sources.pictures import load_pictures
from score_sde.data.sources.reading import Reading
from score_sde.data.sources.tables import read_csv, read_parquet_table
from score_sde.data.split import Parts

_NUMPY, _HDF5, _CSV = (".npy", ".npz"), (".h5", ".hdf5"), ".csv"
# Pictures in files of these kinds hold levels as they are.
_ARRAYS = (*_NUMPY, *_HDF5)


def load_path(place: str, reading: Reading) -> Parts:
    """Load the data at a place.

    Args:
        place: a folder or zip archive of images; a `.npy`, `.npz` or `.h5` file; a `.csv` file; an IDX file or a folder
            of them; CIFAR-10's folder of batches; a parquet file or a folder of them, of pictures or of numbers; or
            `hf:` and the name of a Hugging Face dataset.
        reading: how the data are read.

    Raises:
        UserError: there is nothing there, it is damaged or of no kind named above, or its parts do not fit together.
    """
    if place.startswith(HUB):
        return load_pictures(read_hugging_face(place, reading.condition), place, reading)
    try:
        path = Path(place).expanduser()
        missing = not path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # no name of a file, or of a user
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no name of a file"
        raise UserError(f"there is no {place}, which path names: {reason}") from error
    if missing:
        raise UserError(f"there is no {place}, which path names")
    found = _read(path, reading.condition)
    if isinstance(found.parts["train"], Arrays):
        return load_arrays(found, str(path), reading, _stamps(path), path.suffix.lower() in _ARRAYS)
    return load_pictures(found, place, reading)


def _read(path: Path, condition: tuple[str, ...]) -> Found:
    suffix = path.suffix.lower()
    if suffix in _NUMPY:
        return read_numpy(path, condition)
    if suffix in _HDF5:
        return read_hdf5(path, condition)
    if suffix == _CSV:
        return read_csv(path, condition)
    if is_parquet(path) and not has_pictures(path):
        found = read_parquet_table(path, condition)
    elif is_idx(path) or (path.is_dir() and any(map(is_idx, path.iterdir()))):
        found = read_idx_files(path)
    elif is_cifar10(path):
        found = read_cifar10(path)
    elif is_parquet(path):
        found = read_hugging_face(str(path), condition)
    elif path.is_dir() or suffix == ".zip":
        found = with_captions(find_image_files(path), path)
        return with_pairs(found, ",".join(condition)) if condition else found
    else:
        raise UserError(
            f"{path} is none of a folder or zip of images, .npy, .npz, .h5, .csv, .parquet, IDX (…idx3-ubyte, .gz), "
            "CIFAR-10's folder of batches, or hf:NAME"
        )
    if condition and not any(part.conditions for part in found.parts.values()):
        raise UserError(f"{path} has no arrays or columns that examples could be conditioned on by name")
    return replace(found, notes=(*found.notes, *(count_unread(path) if path.is_dir() else ())))


def is_of_one_size(place: str) -> bool:
    """Return whether the pictures at a place have one size by their format, as arrays do, and files need not."""
    path = Path(place)
    if place.startswith(HUB) or path.suffix.lower() in (".zip", ".parquet"):
        return False
    return not path.is_dir() or is_cifar10(path) or any(map(is_idx, path.iterdir()))


def _stamps(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return json.dumps([[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files])
