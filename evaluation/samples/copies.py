r"""Are samples copies of training examples? Distances to the nearest of them say, beside those of test examples.

With `d(x)` the Euclidean distance of `x` to its nearest training example, in model units, samples `x_1 … x_m` and test
examples `y_1 … y_n` are compared by

    A = ( #{d(x_i) > d(y_j)} + #{d(x_i) = d(y_j)} / 2 ) / (m n),

the probability that a sample is farther from the training examples than a test example is: Mann and Whitney's U over
m n, on which Meehan, Chaudhuri and Dasgupta build their test of data-copying (2020, arXiv:2004.05675). Of a model that
has learnt the distribution, A is 1/2; of one that copies, near 0; of one whose samples lie off the data, near 1. The
training examples are given, so that samples and test examples are independent draws, and the standard error is that of
two samples' placements among each other (DeLong et al. 1988, Biometrics 44):

    a_i = share of the y_j with d(y_j) < d(x_i),  b_j = share of the x_i with d(x_i) > d(y_j),
    var A = var(a) / m + var(b) / n.

Their test's own statistic is `z = (A - 1/2) ((m + n + 1) / (12 m n))^{-1/2}`, a standard normal where there is no
difference. It is blind to a model that copies some and strays with the rest: the picture shows the nearest pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.common.plots import examples_pixels, save_examples, save_pixels
from score_sde.common.progress import Progress
from score_sde.data import Dataset
from score_sde.evaluation.provenance import replacing

# So many test examples are compared with, at most.
_MOST_TESTED = 2000
_LEAST_TESTED = 10
_CHUNK = 4096
_NUM_PAIRS = 8


class Nearest(NamedTuple):
    """Each of some examples has a nearest training example.

    Attributes:
        distances: how far it is, `(N,)`, float64, in model units.
        rows: which it is, `(N,)`.
    """

    distances: np.ndarray
    rows: np.ndarray


class Copies(NamedTuple):
    """Samples and test examples are compared by their nearest training examples.

    Attributes:
        value: the probability `A` that a sample is farther from the training examples than a test example is.
        standard_error: the standard error of `A`.
        z: how many of its standard deviations `A` is from 1/2, were there no difference.
        of_samples: nearest training examples of samples.
        of_test: those of test examples, the first ones.
    """

    value: float
    standard_error: float
    z: float
    of_samples: Nearest
    of_test: Nearest


def find_copies(x: Tensor, dataset: Dataset, mirrored: bool = False) -> Copies:
    """Compare samples `(N, *shape)` in model units with training and with test examples.

    Where data have levels, samples are rounded to them first; otherwise rounding alone would set them apart.

    Args:
        x: the samples.
        dataset: the data.
        mirrored: whether training examples were seen mirrored left to right, too.

    Raises:
        UserError: there are no training examples, or too few test examples.
    """
    check_comparable(dataset)
    samples, test = dataset.units.decode(x.cpu()), dataset.test[:_MOST_TESTED]
    with Progress("nearest training examples", math.ceil(len(dataset.train) / _CHUNK) * (1 + mirrored), "part") as bar:
        found = _nearest(torch.cat([samples, test.to(samples.dtype)]), dataset, mirrored, bar)
    of_samples, of_test = (Nearest(*(each[rows] for each in found)) for rows in (slice(len(x)), slice(len(x), None)))
    return Copies(*compare_distances(of_samples.distances, of_test.distances), of_samples, of_test)


def check_comparable(dataset: Dataset) -> None:
    """See that samples can be compared with training and test examples.

    Raises:
        UserError: there are no training examples, or too few test examples.
    """
    if not len(dataset.train) or len(dataset.test) < _LEAST_TESTED:
        raise UserError(
            f"whether samples are copies shows beside {_LEAST_TESTED} test examples or more, but {dataset.name} has "
            f"{len(dataset.test)}, and {len(dataset.train)} training examples: set aside a part of the data to test on"
        )


def compare_distances(of_samples: np.ndarray, of_test: np.ndarray) -> tuple[float, float, float]:
    """Return `A`, its standard error and `z`, of distances of samples `(m,)` and of test examples `(n,)`."""
    m, n = len(of_samples), len(of_test)
    a = _placements(of_samples, of_test)
    b = 1 - _placements(of_test, of_samples)
    value = float(a.mean())
    error = math.sqrt(sum(each.var(ddof=1) / len(each) for each in (a, b) if len(each) > 1))
    return value, error, (value - 0.5) / math.sqrt((m + n + 1) / (12 * m * n))


def write_copies(
    copies: Copies, x: Tensor, dataset: Dataset, folder: Path, name: str, settings: Mapping[str, Any]
) -> list[Path]:
    """Write `name_copies.json`, and a picture, `name_copies.png`; return the paths.

    The picture shows the nearest pairs first: samples `x` `(N, *shape)` and their nearest training examples, and beside
    them (or below) test examples and theirs. Of vectors it has the distances alone.

    Raises:
        UserError: a file cannot be written.
    """
    paths = [folder / f"{name}_copies.{suffix}" for suffix in ("json", "png")]
    numbers = {
        "farther_than_test": copies.value,
        "standard_error": copies.standard_error,
        "z": copies.z,
        "median_distance": float(np.median(copies.of_samples.distances)),
        "median_distance_of_test": float(np.median(copies.of_test.distances)),
        "identical": int((copies.of_samples.distances == 0).sum()),
        "num_samples": len(copies.of_samples.rows),
        "num_test": len(copies.of_test.rows),
        "num_train": len(dataset.train),
        "settings": dict(settings),
    }
    with replacing(paths[0], settings), write_atomically(paths[0]) as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    if dataset.kind == "vectors":
        distances = [each.distances[:, None] for each in (copies.of_samples, copies.of_test)]
        save_examples(paths[1], "vectors", *distances, names=("samples", "test examples"))
    else:
        shown = [
            _pairs(dataset.units.decode(x.cpu()), copies.of_samples, dataset, "samples"),
            _pairs(dataset.test, copies.of_test, dataset, "test examples"),
        ]
        save_pixels(paths[1], shown, abreast=dataset.is_image)
    return paths


def describe(copies: Copies) -> str:
    """Return the number as a line for people."""
    return (
        f"samples are farther from their nearest training examples than test examples are with probability "
        f"{copies.value:.3f} ± {copies.standard_error:.3f} (0.5: as new as test examples; near 0: copies)"
    )


def _nearest(examples: Tensor, dataset: Dataset, mirrored: bool, bar: Progress) -> Nearest:
    """Find the nearest training example of each of these examples `(N, *shape)`, which are in data units."""
    x = _in_model_units(examples, dataset)
    least, rows = torch.full((len(x),), math.inf, dtype=torch.float64), torch.zeros(len(x), dtype=torch.long)
    distances = least.clone()
    for first in range(0, len(dataset.train), _CHUNK):
        part = dataset.train[first : first + _CHUNK]
        for seen in (part, part.flip(-1)) if mirrored else (part,):
            training = _in_model_units(seen, dataset)
            squares, nearest = (training.square().sum(1) - 2 * x @ training.T).min(1)
            nearer = squares < least
            least[nearer], rows[nearer] = squares[nearer], first + nearest[nearer]
            # The product loses the digits that the distance of a copy has.
            distances[nearer] = (x[nearer] - training[nearest[nearer]]).square().sum(1).sqrt()
            bar.update()
    return Nearest(distances.numpy(), rows.numpy())


def _in_model_units(examples: Tensor, dataset: Dataset) -> Tensor:
    """Return examples in model units, flat, float64; a level is the middle of its bin."""
    units = dataset.units if dataset.levels is None else dataset.quantised.bins
    return units.encode(examples.double()).double().flatten(1)


def _placements(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the share of `others` that lie below each of the values; those that are equal count half."""
    others = np.sort(others)
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * len(others))


def _pairs(examples: Tensor, nearest: Nearest, dataset: Dataset, name: str) -> np.ndarray:
    """Draw examples that have the nearest training examples, and these beside them, nearest first."""
    chosen = torch.from_numpy(np.argsort(nearest.distances, kind="stable")[:_NUM_PAIRS])
    given, training = examples[chosen], dataset.train[torch.from_numpy(nearest.rows)[chosen]]
    if dataset.is_image:
        both = torch.stack([given, training], 1).flatten(0, 1)
        return examples_pixels(dataset.kind, dataset.levels_to_uint8(both).numpy(), columns=2, enlarged=True)
    names = ("their nearest training examples", f"{name}, nearest first")
    return examples_pixels(dataset.kind, training.numpy(), given.numpy(), names=names)
