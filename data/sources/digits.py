"""Handwritten digits: the 1,797 pictures of 8 x 8 pixels and 17 grey levels that come with scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from score_sde.data.split import Parts, split_evenly

LEVELS = 17


def load_digits() -> Parts:
    """Load digits `(N, 1, 8, 8)`, always split into 1,437 to train and 360 to test with equal shares of each digit."""
    rows = np.loadtxt(_file(), delimiter=",", dtype=np.uint8)
    examples = torch.from_numpy(rows[:, :-1]).reshape(-1, 1, 8, 8)
    classes = torch.from_numpy(rows[:, -1].astype(np.int64))
    train, test = split_evenly(len(rows), 0.2, 0, classes, "test")
    names = tuple(map(str, range(10)))
    return Parts(examples[train], examples[test], LEVELS, classes[train], classes[test], names)


def _file() -> Path:
    """Return scikit-learn's file, 64 levels and the digit a line; it is not imported, which takes a second."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
