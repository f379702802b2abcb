"""Vectors are read as float32 numbers that are their own model units; what these cannot hold is refused by name.

Processes and networks here are made for numbers around 1: a prior of unit variance, noise that begins near 0.01. Of
other numbers they would make wrong densities and samples in silence.
"""

from __future__ import annotations

import numpy as np

from score_sde.common.errors import UserError

# Standard deviations and means of columns that models can be trained on as they are.
_SMALLEST_STD, _LARGEST_STD, _LARGEST_MEAN = 0.05, 20.0, 20.0
# The least number of float32's steps in a standard deviation.
_LEAST_RESOLUTION = 1000


def read_vectors(array: np.ndarray, where: str, to_train_on: bool = True) -> np.ndarray:
    """Return vectors `(N, d)` as float32.

    Args:
        array: the numbers, of any floating type.
        where: where the vectors are, for complaints.
        to_train_on: whether every column must vary.

    Raises:
        UserError: a number is not finite, or a column is constant, cannot be told apart in float32, or has a scale
            that models cannot be trained on; the line names it, and the way out.
    """
    finite = np.isfinite(array)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise UserError(f"{where} has numbers that are not finite, first in row {row}, column {column}: leave it out")
    with np.errstate(over="ignore"):
        exact = array.astype(np.float64)
        # Numbers too large for float64's squares have an infinite deviation.
        mean, std, largest = exact.mean(0), exact.std(0), np.abs(exact).max(0)
        resolution = np.spacing(largest.astype(np.float32))
    for column in range(array.shape[1]):
        complaint = f"{where}: column {column} has mean {mean[column]:.5g} and standard deviation {std[column]:.4g}"
        varies = len(array) > 1 and to_train_on
        if varies and np.ptp(array[:, column]) == 0:
            raise UserError(
                f"{where}: column {column} is {exact[0, column]:.5g} in every example, so it has no density: leave it "
                "out"
            )
        if not np.isfinite(resolution[column]):
            raise UserError(f"{complaint}, more than float32 holds: standardise it, (x - mean) / std")
        if varies and std[column] < _LEAST_RESOLUTION * resolution[column]:
            raise UserError(f"{complaint}, which float32 cannot tell apart: standardise it, (x - mean) / std")
        if std[column] > _LARGEST_STD or abs(mean[column]) > _LARGEST_MEAN or (varies and std[column] < _SMALLEST_STD):
            raise UserError(
                f"{complaint}; models are for numbers around 1: standardise it, (x - mean) / std, and add log2(std) to "
                "its bits"
            )
    return array.astype(np.float32)
