"""Moments and supports of the toys, known from their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from score_sde.data import load_dataset
from score_sde.data.sources.toys import TOYS, ring_of_gaussians

COUNT = 200_000


def draw(name: str) -> Tensor:
    return TOYS[name](COUNT, torch.Generator().manual_seed(0))


def moons() -> tuple[list[float], list[list[float]]]:
    variance_y = 0.625 - 1 / math.pi - 1 / 16 + 0.01
    # Upper moon: E x y = 0. Lower: E x y = 1/2 - 2/pi. Means are 1/2 and 1/4.
    covariance = (0.5 - 2 / math.pi) / 2 - 1 / 8
    return [0, 0], [[0.75 + 0.01, covariance], [covariance, variance_y]]


def roll() -> tuple[list[float], list[list[float]]]:
    def mean(function) -> float:
        low, high = 1.5 * math.pi, 4.5 * math.pi
        return quad(function, low, high, epsabs=1e-12)[0] / (high - low)

    x, y = mean(lambda a: a * math.cos(a)), mean(lambda a: a * math.sin(a))
    xx, yy = mean(lambda a: (a * math.cos(a)) ** 2), mean(lambda a: (a * math.sin(a)) ** 2)
    xy = mean(lambda a: a * a * math.cos(a) * math.sin(a))
    noise = 0.25
    covariance = [[xx - x * x + noise, xy - x * y], [xy - x * y, yy - y * y + noise]]
    return [x / 7, y / 7], [[value / 49 for value in row] for row in covariance]


MOMENTS = {
    "eight_gaussians": ([0, 0], [[1, 0], [0, 1]]),
    "two_moons": moons(),
    # On the squares' centres E x y = 1/4; within a square the coordinates are independent. Then divided by 2 / sqrt(3).
    "checkerboard": ([0, 0], [[1, 3 / 16], [3 / 16, 1]]),
    "swiss_roll": roll(),
}


@pytest.mark.parametrize("name", TOYS)
def test_moments(name: str) -> None:
    """Within 4 standard errors."""
    x = draw(name)
    mean, covariance = (torch.tensor(value, dtype=torch.float64) for value in MOMENTS[name])
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / COUNT).sqrt()).all()
    products = torch.einsum("bi,bj->bij", x - mean, x - mean)
    assert ((products.mean(0) - covariance).abs() < 4 * products.std(0) / COUNT**0.5).all()


def test_the_ring_is_its_mixture() -> None:
    """Each point belongs to one component; components have equal shares and the stated covariance."""
    x = draw("eight_gaussians")
    weights, means, covariances = ring_of_gaussians()
    nearest = torch.cdist(x, means).argmin(1)
    shares = torch.bincount(nearest, minlength=8) / COUNT
    assert ((shares - weights).abs() < 4 * (7 / 64 / COUNT) ** 0.5).all()
    residual = x - means[nearest]
    spread = (residual.T @ residual) / COUNT
    assert ((spread - covariances[0]).abs() < 4 * 0.01 * (2 / COUNT) ** 0.5).all()


def test_the_checkerboard_has_one_colour() -> None:
    x = draw("checkerboard") * 2 / math.sqrt(3)
    column, row = x.floor().long().unbind(1)
    assert (column.min(), column.max(), row.min(), row.max()) == (-2, 1, -2, 1)
    assert ((column + row) % 2 == 0).all()
    shares = torch.bincount(4 * (column + 2) + row + 2, minlength=16) / COUNT
    chosen = shares[shares > 0]
    assert len(chosen) == 8
    assert ((chosen - 1 / 8).abs() < 4 * (7 / 64 / COUNT) ** 0.5).all()


def test_parts_differ_and_are_reproducible() -> None:
    first, again = load_dataset("swiss_roll"), load_dataset("swiss_roll")
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.test, again.test)
    assert (len(first.train), len(first.test)) == (20_000, 2_000)
    assert not torch.isin(first.test[:, 0], first.train[:, 0]).any()
