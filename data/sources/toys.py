r"""Distributions in the plane to look at, drawn by seed, centred or nearly so, with standard deviations near 1.

eight_gaussians   weights 1/8, centres at angles k pi/4 on a circle of radius r, covariances s^2 I; r^2/2 + s^2 = 1
two_moons         two half circles of radius 1, the second upside down and shifted by (1, -1/2), plus noise
checkerboard      uniform on the 8 squares of one colour of a 4 x 4 board
swiss_roll        (a cos a, a sin a), the angle a uniform in [3 pi / 2, 9 pi / 2], plus noise
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.data.split import Parts

NUM_TRAIN, NUM_TEST = 20_000, 2_000

_RING_STD = 0.1
_RING_RADIUS = math.sqrt(2 * (1 - _RING_STD**2))
_MOON_STD = 0.1
# The standard deviation of a uniform distribution on [-2, 2].
_BOARD_STD = 2 / math.sqrt(3)
_ROLL_STD = 0.5
_ROLL_SCALE = 7.0


def load_toy(sample: Callable[[int, torch.Generator], Tensor], seed: int = 0) -> Parts:
    """Draw points `(N, 2)`, float32, by `sample`; the training and test parts come from generators of their own."""
    train, test = (torch.Generator().manual_seed(2 * seed + part) for part in range(2))
    return Parts(sample(NUM_TRAIN, train).float(), sample(NUM_TEST, test).float())


def ring_of_gaussians() -> tuple[Tensor, Tensor, Tensor]:
    """Return weights `(8,)`, means `(8, 2)` and covariances `(8, 2, 2)` of `eight_gaussians`, float64."""
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    means = _RING_RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)
    covariances = _RING_STD**2 * torch.eye(2, dtype=torch.float64).expand(8, 2, 2)
    return torch.full((8,), 1 / 8, dtype=torch.float64), means, covariances


def eight_gaussians(count: int, generator: torch.Generator) -> Tensor:
    """Draw points `(count, 2)`, float64."""
    _, means, _ = ring_of_gaussians()
    component = torch.randint(8, (count,), generator=generator)
    return means[component] + _RING_STD * _normal(count, generator)


def two_moons(count: int, generator: torch.Generator) -> Tensor:
    """Draw points `(count, 2)`, float64; the mean of the noiseless moons, (1/2, 1/4), is moved to 0."""
    angle = math.pi * _uniform(count, generator)
    upper = torch.rand(count, generator=generator) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x - 0.5, y - 0.25], dim=1) + _MOON_STD * _normal(count, generator)


def checkerboard(count: int, generator: torch.Generator) -> Tensor:
    """Draw points `(count, 2)`, float64."""
    column = torch.randint(4, (count,), generator=generator)
    row = 2 * torch.randint(2, (count,), generator=generator) + column % 2
    corner = torch.stack([column, row], dim=1) - 2
    return (corner + torch.stack([_uniform(count, generator), _uniform(count, generator)], dim=1)) / _BOARD_STD


def swiss_roll(count: int, generator: torch.Generator) -> Tensor:
    """Draw points `(count, 2)`, float64."""
    angle = 1.5 * math.pi * (1 + 2 * _uniform(count, generator))
    roll = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    return (roll + _ROLL_STD * _normal(count, generator)) / _ROLL_SCALE


TOYS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "eight_gaussians": eight_gaussians,
    "two_moons": two_moons,
    "checkerboard": checkerboard,
    "swiss_roll": swiss_roll,
}


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _normal(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 2, generator=generator, dtype=torch.float64)
