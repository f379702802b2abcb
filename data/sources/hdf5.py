"""HDF5 files (`pip install score-sde[hdf5]`): datasets by name, as the arrays of an `.npz` file.

Datasets in groups are called by their paths, as `train/x`. A large one is mapped into memory, if the file has it in one
piece: neither compressed nor in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources import arrays
from score_sde.data.sources.arrays import read_named
from score_sde.data.sources.found import Found


def read_hdf5(path: Path, wanted: Sequence[str] = ()) -> Found:
    """Read the datasets of a file; those `wanted` are conditions.

    Raises:
        UserError: the library is not installed, the file is damaged, or names do not tell its datasets apart.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError("HDF5 files need: pip install 'score-sde[hdf5]'") from error
    try:
        with h5py.File(path, "r") as file:
            names: list[str] = []
            # Links to other files are not followed.
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            return read_named(_Content(file, names, path), str(path), wanted)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path} does not fit into memory: write it without compression or chunks, or as .npy, which are read "
            "piece by piece"
        ) from error
    except Exception as error:  # damaged files fail in many ways
        reason = error.strerror if isinstance(error, PermissionError | IsADirectoryError) else "it is damaged"
        raise UserError(f"cannot read {path}: {reason}") from error


class _Content(Mapping[str, np.ndarray]):
    """Gives the datasets of an open file by name, each read, or mapped, when it is asked for."""

    def __init__(self, file: Any, names: list[str], path: Path) -> None:
        self.file = file
        self.names = names
        self.path = path

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> np.ndarray:
        import h5py

        dataset = self.file[name]
        if dataset.external or dataset.is_virtual:
            raise UserError(f"{self.path}[{name}] lies in other files: copy it into this one")
        if h5py.check_string_dtype(dataset.dtype) is not None:
            return np.asarray(dataset.asstr()[()], dtype=np.str_)
        if dataset.nbytes > arrays.LARGE and dataset.id.get_offset() is not None and not self.file.userblock_size:
            return np.memmap(self.path, dataset.dtype, "r", dataset.id.get_offset(), dataset.shape)
        return np.asarray(dataset[()])
