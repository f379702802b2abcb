"""CIFAR-10 in its published format: the "python version", six pickled batches (Krizhevsky 2009).

A pickle can run any code. Reading is therefore restricted to the few constructors that an array of bytes is made of.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from score_sde.common.errors import UserError
from score_sde.data.sources.classes import number_classes
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.split import Parts

_FOLDER = "cifar-10-batches-py"
_TRAIN_FILES = [f"data_batch_{number}" for number in range(1, 6)]
_TEST_FILE = "test_batch"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_NUMBERS = range(len(CLASSES))
_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"

# An array pickled by NumPy 1, as these files are, names a module that NumPy 2 has moved.
_reconstruct = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    # Python 3 writes bytes in this way for Python 2 to read.
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _OtherContentError(Exception):
    """The file has something that no batch of pictures has; the message says what."""


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays, and Python's plain values; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _OtherContentError(f"it asks for {module}.{name}, which no batch of pictures needs")
        return _ALLOWED[module, name]


def load_cifar10(folder: Path) -> Parts:
    """Load the 50,000 training and 10,000 test pictures, `(N, 3, 32, 32)`, 256 levels.

    Args:
        folder: the folder that contains `cifar-10-batches-py/`.

    Raises:
        UserError: a file is missing, damaged, or not what it should be.
    """
    found = read_cifar10(folder / _FOLDER).parts
    train, test = found["train"], found["test"]
    assert isinstance(train, Arrays)
    assert isinstance(test, Arrays)
    names, numbers = number_classes({"train": train.classes, "test": test.classes}, CLASSES, str(folder))
    pictures, test_pictures = torch.from_numpy(train.examples), torch.from_numpy(test.examples)
    return Parts(pictures, test_pictures, 256, numbers["train"], numbers["test"], names)


def is_cifar10(path: Path) -> bool:
    """Return whether this is the folder of the batches."""
    return (path / _TRAIN_FILES[0]).is_file()


def read_cifar10(path: Path) -> Found:
    """Read training and test pictures, and their classes by name, from the folder of the batches itself."""
    batches = [_read_batch(path / name) for name in _TRAIN_FILES]
    pictures = np.concatenate([batch.examples for batch in batches])
    classes = [name for batch in batches for name in batch.classes or ()]
    return Found({"train": Arrays(str(path), pictures, classes), "test": _read_batch(path / _TEST_FILE)}, CLASSES)


def _read_batch(path: Path) -> Arrays:
    """Read the pictures `(N, 3, 32, 32)`, uint8, and the classes of one file."""
    try:
        with open(path, "rb") as file:
            batch = _unpickle(file)
        if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
            raise _OtherContentError("it has no data or no labels")
        pictures, numbers = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
        if not np.issubdtype(numbers.dtype, np.integer) or numbers.ndim != 1 or not set(numbers) <= set(_NUMBERS):
            raise _OtherContentError(f"its labels are not whole numbers from 0 to {len(CLASSES) - 1}")
        if pictures.dtype != np.uint8 or pictures.shape != (len(numbers), 3 * 32 * 32):
            raise _OtherContentError(
                f"it has {pictures.dtype} data of shape {pictures.shape} for {len(numbers)} labels"
            )
        classes = [CLASSES[number] for number in numbers]
        return Arrays(str(path), pictures.reshape(-1, 3, 32, 32).copy(), classes)
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {path}; download {_SOURCE} and unpack it in {path.parent.parent} (folder), so that "
            f"this file exists"
        ) from error
    except _OtherContentError as error:
        raise UserError(f"{path} is not a batch of CIFAR-10 ({error}); download {_SOURCE} again") from error
    except Exception as error:  # damaged pickles fail in many ways
        raise UserError(f"{path} is not a batch of CIFAR-10; download {_SOURCE} again") from error


def _unpickle(file: BinaryIO) -> Any:
    return _ArrayUnpickler(file, encoding="bytes").load()
