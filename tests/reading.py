"""Files that the program wrote, read back and closed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

# The repository, with its tests and their data.
ROOT = Path(__file__).parent.parent


def image(path: Path) -> np.ndarray:
    """Read a picture `(H, W)` or `(H, W, C)`, uint8."""
    with Image.open(path) as picture:
        return np.array(picture)


def table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
