"""Distances against scipy's, and against closed forms for Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg, stats

from score_sde.evaluation.samples.distances import (
    classifier_two_sample_test,
    frechet_distance,
    sliced_wasserstein,
    wasserstein_1d,
)


def samples_with_moments(mean: np.ndarray, covariance: np.ndarray, seed: int, count: int = 50) -> np.ndarray:
    """Samples whose empirical mean and unbiased covariance are exactly these."""
    z = np.random.default_rng(seed).normal(size=(count, len(mean)))
    z -= z.mean(0)
    z = z @ linalg.inv(linalg.cholesky(np.cov(z, rowvar=False)))
    return mean + z @ linalg.cholesky(covariance)


def random_covariance(dimension: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(dimension, dimension))
    return factor @ factor.T / dimension


def test_frechet_distance_is_scipys() -> None:
    means = np.random.default_rng(0).normal(size=(2, 5))
    first, second = random_covariance(5, 1), random_covariance(5, 2)
    x, y = samples_with_moments(means[0], first, 3), samples_with_moments(means[1], second, 4, count=80)
    root = linalg.sqrtm(first @ second)
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(first + second - 2 * root.real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_commuting_covariances_is_the_closed_form() -> None:
    """`|m_1 - m_2|^2 + sum (s_1 - s_2)^2` for standard deviations along the same axes, some of them zero."""
    first, second = np.array([1.0, 2.0, 1e-6]), np.array([3.0, 0.5, 2e-6])
    x = samples_with_moments(np.array([1.0, 0.0, 0.0]), np.diag(first**2), 0)
    y = samples_with_moments(np.array([0.0, 0.0, 2.0]), np.diag(second**2), 1)
    assert frechet_distance(x, y) == pytest.approx(5 + ((first - second) ** 2).sum(), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    flat = np.concatenate([x[:, :1], np.ones((len(x), 1))], axis=1)
    assert frechet_distance(flat, flat + 1) == pytest.approx(2, rel=1e-9)


def test_frechet_distance_is_biased_upwards_as_one_over_n() -> None:
    """On equal distributions the mean falls fourfold when both sets are four times as large."""
    generator = np.random.default_rng(0)

    def floor(count: int) -> float:
        pairs = [generator.normal(size=(2, count, 8)) for _ in range(100)]
        return float(np.mean([frechet_distance(x, y) for x, y in pairs]))

    assert floor(200) / floor(800) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("counts", [(40, 40), (30, 41), (7, 100)])
def test_wasserstein_in_one_dimension_is_scipys(counts: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(counts[0], 3)), 1 + 2 * generator.normal(size=(counts[1], 3))
    expected = [stats.wasserstein_distance(x[:, i], y[:, i]) for i in range(3)]
    np.testing.assert_allclose(wasserstein_1d(x, y, order=1), expected, rtol=1e-12)


def test_squared_wasserstein_with_unequal_counts_is_that_of_repeated_samples() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(4, 2)), generator.normal(size=(6, 2))
    paired = (np.sort(np.repeat(x, 3, axis=0), axis=0) - np.sort(np.repeat(y, 2, axis=0), axis=0)) ** 2
    np.testing.assert_allclose(wasserstein_1d(x, y), paired.mean(0), rtol=1e-12)


def test_sliced_wasserstein_of_a_shift() -> None:
    """A shift by `v` moves the projection on `u` by `u·v`, whose mean square over the sphere is `|v|^2 / d`."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    shift = np.array([1.0, -2.0, 2.0])
    num_projections = 20_000
    # Var (u·v)^2 = |v|^4 (3 / (d (d + 2)) - 1 / d^2).
    mean, std = 9 / 3, 9 * math.sqrt(3 / 15 - 1 / 9)
    squared = sliced_wasserstein(x, x + shift, num_projections) ** 2
    assert abs(squared - mean) < 4 * std / math.sqrt(num_projections)
    assert sliced_wasserstein(x, x[::-1]) == pytest.approx(0, abs=1e-12)
    line = x[:, :1]
    assert sliced_wasserstein(line, line + 0.7) == pytest.approx(0.7, rel=1e-12)


def test_sliced_wasserstein_of_two_gaussians() -> None:
    """Between `N(0, I)` and `N(0, s^2 I)` every direction gives `|s - 1|`."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20_000, 4)), 1.5 * generator.normal(size=(30_000, 4))
    assert sliced_wasserstein(x, y, 64) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("separation", [0.0, 1.0, 3.0])
def test_classifier_reaches_bayes_accuracy(separation: float) -> None:
    """Two Gaussians with means `separation` apart are told apart with probability `Phi(separation / 2)` at best."""
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(3000, 4)), generator.normal(size=(4000, 4))
    y[:, 0] += separation
    accuracy = classifier_two_sample_test(x, y)
    bayes = stats.norm.cdf(separation / 2)
    assert accuracy.standard_error == pytest.approx(math.sqrt(bayes * (1 - bayes) / 6000), rel=0.05)
    assert abs(accuracy.value - bayes) < 3 * accuracy.standard_error


def test_classifiers_standard_error_is_the_scatter() -> None:
    """Over 50 pairs of sets, to within 2.5 times the 10% by which their standard deviation is uncertain."""
    generator = np.random.default_rng(2)
    results = []
    for _ in range(50):
        x, y = generator.normal(size=(2, 200, 5))
        results.append(classifier_two_sample_test(x, y + np.eye(5)[0]))
    scatter = np.std([result.value for result in results], ddof=1)
    assert scatter / np.mean([result.standard_error for result in results]) == pytest.approx(1, abs=0.25)
