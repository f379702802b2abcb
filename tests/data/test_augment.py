"""Augmentations do just what they say, as often as they say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import get_augmentation
from score_sde.data.augment import distort, flip, shift

COUNT = 9000


def picture() -> torch.Tensor:
    return torch.randint(1, 17, (1, 2, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def seeded(count: int, seed: int) -> BatchNoise:
    return BatchNoise(count, torch.Generator().manual_seed(seed))


def shares(augmented: torch.Tensor, outcomes: list[torch.Tensor]) -> torch.Tensor:
    """Return how often each outcome occurs; no other outcome may occur."""
    counts = torch.tensor([(augmented == outcome).flatten(1).all(1).sum() for outcome in outcomes])
    assert counts.sum() == COUNT
    return counts / COUNT


def test_flip() -> None:
    x = picture()
    found = shares(flip(x.expand(COUNT, -1, -1, -1), seeded(COUNT, 1)), [x, x.flip(-1)])
    assert ((found - 1 / 2).abs() < 4 * (1 / 4 / COUNT) ** 0.5).all()


def test_shift() -> None:
    """All nine moves by at most one pixel, level 0 entering."""
    x = picture()
    padded = F.pad(x, [1, 1, 1, 1])
    moves = [padded[:, :, i : i + 3, j : j + 4] for i in range(3) for j in range(3)]
    found = shares(shift(x.expand(COUNT, -1, -1, -1), seeded(COUNT, 1)), moves)
    assert ((found - 1 / 9).abs() < 4 * (8 / 81 / COUNT) ** 0.5).all()


def test_names() -> None:
    x = picture().expand(20, -1, -1, -1)
    both = get_augmentation("flip, shift")
    assert both is not None
    noise = seeded(len(x), 2)
    expected = shift(flip(x, noise), noise)
    assert torch.equal(both(x, seeded(len(x), 2)), expected)
    assert get_augmentation("") is None
    with pytest.raises(UserError, match=r"no augmentation is called 'flop' \(did you mean 'flip'"):
        get_augmentation("flop")


def test_distort_is_gentle_and_stays_among_the_levels() -> None:
    """A large disc keeps its mass to the scale's spread, its centre to the shift's; levels stay whole and in range."""
    size = 32
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((row - 15.5) ** 2 + (column - 15.5) ** 2 < 64).to(torch.uint8) * 16
    x = distort(disc.expand(4000, 1, -1, -1), seeded(4000, 0)).double()
    assert float(x.max()) == 16
    mass = x.sum((1, 2, 3))
    centre = (x * column).sum((1, 2, 3)) / mass
    # Area goes with the inverse of the two stretches: a relative spread of sqrt(2) 5%, and a little from slant.
    assert float(mass.std() / mass.mean()) == pytest.approx(2**0.5 * 0.05, rel=0.1)
    assert float(centre.std()) == pytest.approx(0.03 * size, rel=0.1)
    assert abs(float(centre.mean()) - 15.5) < 4 * 0.03 * size / 4000**0.5
