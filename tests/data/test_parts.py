"""Random parts of training examples: their shares, and what is never asked."""

from __future__ import annotations

import torch

from score_sde.common.noise import BatchNoise
from score_sde.common.part import Part
from score_sde.data.parts import random_part

N = 20_000


def drawn(x: torch.Tensor, seed: int = 0) -> Part:
    return random_part(x, BatchNoise(len(x), torch.Generator().manual_seed(seed)))


def test_shares_of_the_questions_and_of_what_each_asks() -> None:
    x = torch.randn(N, 40, generator=torch.Generator().manual_seed(1))
    part = drawn(x)
    given, absent = part.given.sum(1), part.absent.sum(1)
    assert not bool(((given > 0) & (absent > 0)).any())
    # A uniform share is any number of the 40, from none, each with probability 1 / 41; all of them are all but one.
    mean = (sum(range(1, 41)) - 1) / 40**2
    for chosen in (given, absent):
        some = chosen > 0
        assert abs(float(some.float().mean()) - 0.4 * 40 / 41) < 0.01
        shares = chosen[some].double() / 40
        assert abs(float(shares.mean()) - mean) < 0.01
        assert abs(float(shares.var()) - 1 / 12) < 0.005
    assert torch.equal(part.values, torch.where(part.given, x, 0))


def test_what_is_missing_is_absent_and_one_number_is_always_modelled() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, 4, generator=generator)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.5, torch.nan, x)
    x[:, 0] = torch.where(x.isnan().all(1), 1.0, x[:, 0])
    part = drawn(x)
    assert not bool((x.isnan() & (part.given | part.modelled)).any())
    assert bool(part.modelled.any(1).all())
    assert not bool(part.values.isnan().any())


def test_half_of_the_parts_of_a_series_are_gaps_or_all_but_one() -> None:
    """A gap that closes on itself begins once; random places begin about `n s (1 - s)` times."""
    part = drawn(torch.zeros(N, 2, 30), 3)
    chosen = (part.given | part.absent)[:, 0]
    inside = chosen & ~chosen.roll(1, 1)
    some = chosen.any(1) & ~chosen.all(1) & ((part.given | part.absent)[:, 1] == chosen).all(1)
    assert bool((inside[some].sum(1) <= 2).all())
    assert abs(float(some.double().sum() / (0.8 * N)) - 0.5) < 0.05
    share = chosen[some].double().mean(1)
    assert abs(float(share.mean()) - 0.5) < 0.02
