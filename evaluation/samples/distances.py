"""Distances between two sets of samples.

Each is zero (a half, for the test) when the distributions agree and the sets are infinite. On finite sets the first two
are biased upwards, the more the smaller the sets and the higher the dimension: a figure means something beside the
*floor*, the same figure for a second set of real data of the same size.

    Fréchet            |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^{1/2}), of means and covariances, squared as is the
                       custom (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500)
    sliced Wasserstein ( mean over directions u of W_2(u·x, u·y)^2 )^{1/2} (Rabin et al. 2011; Bonneel et al. 2015)
    classifier test    accuracy with which held-out examples are assigned to their set (Lopez-Paz & Oquab 2017,
                       arXiv:1610.06545)

How far samples are from held-out data, by three distances; and how far other real data are: the floor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data import Dataset
from score_sde.evaluation.samples.features import random_features

NUM_PROJECTIONS = 512
NUM_FOLDS = 5
_PROJECTIONS_AT_ONCE = 64
# A quadratic penalty on the classifier's weights has this inverse strength.
_PENALTY = 0.1


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Return the squared Fréchet distance between the Gaussians with the moments of `x` `(N, k)` and `y` `(M, k)`.

    With `C_1 = A A^T` and `C_2 = B B^T`, the trace of `(C_1 C_2)^{1/2}` is the sum of the singular values of `A^T B`,
    which needs no root of a matrix that rounding has made indefinite. Its unit is that of the features, squared.
    """
    a, b = _covariance_factor(x), _covariance_factor(y)
    shift = x.mean(0) - y.mean(0)
    return float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * np.linalg.norm(a.T @ b, "nuc"))


def wasserstein_1d(x: np.ndarray, y: np.ndarray, order: float = 2) -> np.ndarray:
    """Return the Wasserstein distance of this order, to that power, of the columns `x` `(N, P)` to `y` `(M, P)`;
    `(P,)`.

    It is `∫ |F^{-1}(q) - G^{-1}(q)|^order dq`; both quantile functions are steps, constant between multiples of `1/N`
    and `1/M`.
    """
    x, y = np.sort(x, axis=0), np.sort(y, axis=0)
    # In units of 1 / (N M) the ends of all steps are whole numbers.
    ends = np.union1d(np.arange(1, len(x) + 1) * len(y), np.arange(1, len(y) + 1) * len(x))
    widths = np.diff(ends, prepend=0) / (len(x) * len(y))
    gaps = np.abs(x[(ends - 1) // len(y)] - y[(ends - 1) // len(x)])
    return widths @ gaps**order


def sliced_wasserstein(x: np.ndarray, y: np.ndarray, num_projections: int = NUM_PROJECTIONS, seed: int = 0) -> float:
    """Return the sliced 2-Wasserstein distance between `x` `(N, d)` and `y` `(M, d)`, in their units.

    The directions are uniform on the sphere and depend on the seed alone; those of `d = 1` are all the same.
    """
    directions = np.random.RandomState(seed).standard_normal((x.shape[1], num_projections))
    directions /= np.linalg.norm(directions, axis=0)
    total = 0.0
    for first in range(0, num_projections, _PROJECTIONS_AT_ONCE):
        some = directions[:, first : first + _PROJECTIONS_AT_ONCE]
        total += float(wasserstein_1d(x @ some, y @ some).sum())
    return float(np.sqrt(total / num_projections))


class Accuracy(NamedTuple):
    """The accuracy of a classifier has a standard error."""

    value: float
    standard_error: float


def classifier_two_sample_test(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Accuracy:
    """Return the accuracy with which logistic regression tells `x` `(N, k)` from `y` `(M, k)`: 0.5 where it cannot.

    It is cross-validated five-fold on standardised features; of the larger set a random part as large as the smaller is
    taken. The standard error is the binomial one, `(a (1 - a) / n)^{1/2}` with `n` predictions. It neglects that folds
    share their training data: on equal distributions, accuracies scatter around 0.5 by up to 1.5 times as much.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.RandomState(seed)
    size = min(len(x), len(y))
    x, y = (z[generator.permutation(len(z))[:size]] for z in (x, y))
    features, labels = np.concatenate([x, y]), np.repeat([0, 1], size)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=_PENALTY, max_iter=1000))
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    correct = cross_val_predict(classifier, features, labels, cv=folds) == labels
    accuracy = float(correct.mean())
    return Accuracy(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / len(correct))))


def _covariance_factor(x: np.ndarray) -> np.ndarray:
    """Return a square `A` with `A A^T` the unbiased covariance of `x` `(N, k)`."""
    eigenvalues, basis = np.linalg.eigh(np.atleast_2d(np.cov(x, rowvar=False)))
    return basis * np.sqrt(np.clip(eigenvalues, 0, None))


_LEAST_EXAMPLES = 10
DATA_DISTANCES = ("frechet", "sliced_wasserstein", "c2st")


class DataDistances:
    """Samples have distances to the test examples of a dataset.

    Fréchet distance and classifier test are taken in the space of `evaluation.samples.features`, the sliced Wasserstein
    distance in model units. Where data have levels, samples are rounded to them first: otherwise a classifier would
    tell real from generated by the rounding alone.

    Args:
        dataset: samples are compared with its test examples; training examples normalise the features and give the
            floor.

    Raises:
        UserError: there are too few test examples.
    """

    def __init__(self, dataset: Dataset) -> None:
        if len(dataset.test) < _LEAST_EXAMPLES:
            raise UserError(
                f"{dataset.name} has {len(dataset.test)} test examples, too few to compare samples with: set aside a "
                "larger part of the data to test on, or leave the comparison out"
            )
        self._dataset = dataset
        test = self._real(dataset.test)
        self._features = random_features(self._real(dataset.train))
        self._test, self._test_features = _flat(test), self._features(test)

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Return `frechet`, `sliced_wasserstein` and `c2st` of samples `(N, *shape)` in model units.

        They have their worst values, `inf` and 1, if a sample is not finite.
        """
        if not bool(x.isfinite().all()):
            return dict(zip(DATA_DISTANCES, (np.inf, np.inf, 1.0), strict=True))
        x = x.cpu()
        return self._distances(self._real(self._dataset.units.decode(x)))

    def frechet(self, x: Tensor) -> float:
        """Return the Fréchet distance alone; `inf` if a sample is not finite."""
        if not bool(x.isfinite().all()):
            return np.inf
        return frechet_distance(self._features(self._real(self._dataset.units.decode(x.cpu()))), self._test_features)

    def floor(self, num_samples: int, seed: int) -> dict[str, float]:
        """Return the distances of `num_samples` training examples, chosen by the seed; of all if there are no more."""
        chosen = torch.randperm(len(self._dataset.train), generator=torch.Generator().manual_seed(seed))[:num_samples]
        return self._distances(self._real(self._dataset.train[chosen]))

    def _distances(self, x: Tensor) -> dict[str, float]:
        features = self._features(x)
        return {
            "frechet": frechet_distance(features, self._test_features),
            "sliced_wasserstein": sliced_wasserstein(_flat(x), self._test),
            "c2st": classifier_two_sample_test(features, self._test_features).value,
        }

    def _real(self, examples: Tensor) -> Tensor:
        """Return examples of the dataset in model units, float64; a level is the middle of its bin."""
        data = self._dataset
        return (data.units if data.levels is None else data.quantised.bins).encode(examples.double()).double()


def _flat(x: Tensor) -> np.ndarray:
    return x.flatten(1).numpy()
