"""The Brownian path of adaptive steps: bridges in closed form, nothing forgotten, and no bias from rejections."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.noise import SampleNoise
from score_sde.solvers.stochastic.brownian_path import BrownianPath

FLOAT = torch.float64


def durations(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=FLOAT)


def test_a_rejected_increment_is_split_by_the_brownian_bridge(monkeypatch):
    z = iter([1.5, -0.5, 0.25, 2.0, 3.0])
    monkeypatch.setattr(SampleNoise, "normal", lambda self, like: torch.full_like(like, next(z)))
    path = BrownianPath(torch.zeros(1, 1, dtype=FLOAT), SampleNoise([0], "brownian"))
    yes, no = torch.tensor([True]), torch.tensor([False])

    h, whole = path.propose(durations(0.4))
    torch.testing.assert_close(whole.item(), 0.4**0.5 * 1.5)
    path.accept(no)
    h, first = path.propose(durations(0.1))
    torch.testing.assert_close(first.item(), 0.25 * whole.item() - 0.5 * (0.1 * 0.75) ** 0.5)
    path.accept(yes)
    h, second = path.propose(durations(0.2))
    rest = whole.item() - first.item()
    torch.testing.assert_close(second.item(), 2 / 3 * rest + 0.25 * (0.2 / 3) ** 0.5)
    path.accept(yes)
    h, third = path.propose(durations(5.0))
    assert h.item() == pytest.approx(0.1)
    torch.testing.assert_close(third.item(), rest - second.item())
    path.accept(yes)
    h, fresh = path.propose(durations(5.0))
    assert h.item() == 5.0
    torch.testing.assert_close(fresh.item(), 5.0**0.5 * 3.0)


def test_pieces_add_up_after_many_rejections():
    """Each proposal is rejected three times, at shorter and shorter steps; what it showed stays true."""
    path = BrownianPath(torch.zeros(4, 3, dtype=FLOAT), SampleNoise(range(4), "brownian"))
    no, yes = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    _, whole = path.propose(durations(1.0, 1.0, 1.0, 1.0))
    path.accept(no)
    passed, total = torch.zeros(4, dtype=FLOAT), torch.zeros(4, 3, dtype=FLOAT)
    generator = torch.Generator().manual_seed(0)
    while bool((passed < 1 - 1e-12).any()):
        length = torch.rand(4, generator=generator, dtype=FLOAT)
        for factor in (1.0, 0.5, 0.1):
            path.propose(torch.minimum(length * factor, 1 - passed))
            path.accept(no)
        h, increment = path.propose(torch.minimum(length, 1 - passed))
        path.accept(yes)
        passed, total = passed + h, total + increment
    torch.testing.assert_close(total, whole)


def wander(path: BrownianPath, count: int, redraw: bool) -> torch.Tensor:
    """`w(1)` of steps that are rejected when the increment is large, for which a redrawn one would be biased."""
    passed, total = torch.zeros(count, dtype=FLOAT), torch.zeros(count, 1, dtype=FLOAT)
    step = torch.full((count,), 0.5, dtype=FLOAT)
    while bool((passed < 1).any()):
        h, increment = path.propose(torch.minimum(step, 1 - passed))
        accepted = (increment[:, 0].abs() < h.sqrt()) | (h < 0.02)
        path.accept(accepted | torch.tensor(redraw))
        passed = torch.where(accepted, torch.where(h < 1 - passed, passed + h, 1.0), passed)
        total = torch.where(accepted[:, None], total + increment, total)
        step = torch.where(accepted, 1.5 * h, 0.6 * h)
    return total[:, 0]


@pytest.mark.usefixtures("one_generator")
def test_rejections_do_not_bias_the_path():
    count = 20000
    kept = wander(BrownianPath(torch.zeros(count, 1, dtype=FLOAT), SampleNoise([], "brownian")), count, redraw=False)
    assert abs(kept.mean()) < 4.5 / count**0.5
    assert abs(kept.square().mean() - 1) < 4.5 * (2 / count) ** 0.5
    assert abs(kept.pow(4).mean() - 3) < 4.5 * (96 / count) ** 0.5
    redrawn = wander(BrownianPath(torch.zeros(count, 1, dtype=FLOAT), SampleNoise([], "brownian")), count, redraw=True)
    assert redrawn.square().mean() < 0.7


def test_a_path_depends_on_its_own_seed_and_history_alone():
    """Example 1 sees the same increments alone as between neighbours with other steps and rejections."""
    together = BrownianPath(torch.zeros(3, 2, dtype=FLOAT), SampleNoise([4, 5, 6], "brownian"))
    alone = BrownianPath(torch.zeros(1, 2, dtype=FLOAT), SampleNoise([5], "brownian"))
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        length = torch.rand(3, generator=generator, dtype=FLOAT) + 0.01
        accepted = torch.rand(3, generator=generator) < 0.5
        h, increment = together.propose(length)
        h_alone, increment_alone = alone.propose(length[1:2])
        assert torch.equal(h_alone[0], h[1])
        assert torch.equal(increment_alone[0], increment[1])
        together.accept(accepted)
        alone.accept(accepted[1:2])
