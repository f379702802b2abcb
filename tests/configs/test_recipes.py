"""The recipes for data without levels: Gaussian data are learnt, within 0.05 nats/dim and 10 % of each deviation."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import score_sde

NUM_TESTED = 200
NEVER = {"training.sample_every": 0, "training.checkpoint_every": 0}


def falling(count: int, correlation: float) -> np.ndarray:
    """Return correlations that fall with the distance."""
    places = np.arange(count)
    return correlation ** np.abs(places[:, None] - places)


def correlations(shape: tuple[int, ...]) -> np.ndarray:
    """Return correlations of the numbers of an example: falling along each axis, or, of vectors, drawn."""
    if len(shape) > 1:
        channels = np.full((shape[0], shape[0]), 0.6) + 0.4 * np.eye(shape[0])
        return reduce(np.kron, [falling(count, 0.85) for count in shape[1:]], channels)
    factor = np.random.default_rng(7).standard_normal((shape[0], shape[0]))
    covariance = factor @ factor.T / shape[0] + 0.05 * np.eye(shape[0])
    deviations = np.sqrt(np.diag(covariance))
    return covariance / deviations / deviations[:, None]


# Places and scales of the numbers of an example.
SCALES: dict[str, tuple[Any, Any]] = {
    "mean 5000, deviation 700": (5000.0, 700.0),
    "columns of 1 and 1000": (0.0, np.array([1.0, 1000.0, 1.0])),
    "deviation 0.001 around 7": (7.0, 0.001),
    "1.7e9 + N(0, 1)": (1.7e9, 1.0),
}


def learnt(
    shape: tuple[int, ...], count: int, folder: Path, place: Any = 40.0, scale: Any = 3.0, **settings: Any
) -> tuple[float, np.ndarray]:
    """Return how much the density of a fitted run lacks, in nats/dim, and its deviations in units of the true ones."""
    covariance, size, rng = correlations(shape), int(np.prod(shape)), np.random.default_rng(0)
    factor = np.linalg.cholesky(covariance)
    train, test = ((rng.standard_normal((rows, size)) @ factor.T).reshape(-1, *shape) for rows in (count, NUM_TESTED))
    run = score_sde.fit(scale * train + place, workdir=folder, settings=NEVER | settings)
    whitened = np.linalg.solve(factor, test.reshape(NUM_TESTED, -1).T)
    log_det = np.log(np.diag(factor)).sum() + np.log(scale * np.ones(shape)).sum()
    exact = -0.5 * (np.square(whitened).sum(0) + size * np.log(2 * np.pi)) - log_det
    lack = (exact - run.log_prob(scale * test + place)).mean() / size
    return float(lack), (run.sample(1000, seed=0) / scale).reshape(1000, -1).std(0)


def test_vectors_are_learnt_in_a_few_hundred_steps(tmp_path: Path) -> None:
    lack, deviations = learnt((3,), 2000, tmp_path, **{"training.num_steps": 300})
    assert abs(lack) < 0.05
    assert np.abs(deviations - 1).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(1,), (3,), (50,), (2, 32), (1, 8, 8), (1, 4, 6, 5)], ids=["d1", "d3", "d50", "series", "field", "volume"]
)
def test_gaussians_of_every_shape_are_learnt(tmp_path: Path, shape: tuple[int, ...]) -> None:
    lack, deviations = learnt(shape, 4000, tmp_path)
    assert abs(lack) < 0.05
    assert np.abs(deviations - 1).max() < 0.1


@pytest.mark.parametrize("scale", SCALES)
def test_place_and_scale_of_the_data_change_nothing(scale: str) -> None:
    """What is learnt of data anywhere is what is learnt of the same at 0 and 1; densities have the determinant."""
    place, times = SCALES[scale]
    x = np.random.default_rng(0).standard_normal((200, 3))
    settings = {**NEVER, "training.num_steps": 20, "model.width": 16, "model.num_blocks": 1}
    one, other = (score_sde.fit(data, settings=settings) for data in (x, times * x + place))
    determinant = np.log(times * np.ones(3)).sum()
    options: dict[str, Any] = {"divergence": "exact", "method": "adams", "num_steps": 12}
    there, here = other.log_prob(times * x[:20] + place, **options), one.log_prob(x[:20], **options)
    np.testing.assert_allclose(there + determinant, here, rtol=0, atol=2e-3)
    samples = (other.sample(50, num_steps=5) - place) / times
    np.testing.assert_allclose(samples, one.sample(50, num_steps=5), rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_gaussians_of_every_scale_are_learnt(tmp_path: Path, scale: str) -> None:
    lack, deviations = learnt((3,), 4000, tmp_path, *SCALES[scale])
    assert abs(lack) < 0.05
    assert np.abs(deviations - 1).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 32), (1, 8, 8)], ids=["d1", "d3", "series", "field"])
def test_three_hundred_examples_are_not_learnt_by_heart(tmp_path: Path, shape: tuple[int, ...]) -> None:
    lack, _ = learnt(shape, 300, tmp_path)
    assert abs(lack) < 0.1
