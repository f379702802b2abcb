"""A schedule that is a module: monotone, inverted in a few calls, and never remembered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.sde import SDE, VPSDE, LearnedSDE
from score_sde.sde.times import get_time_distribution, log_snr_rate
from score_sde.solvers.grids import GRIDS, time_grid
from score_sde.solvers.quadrature import gauss_legendre
from tests.schedules import random_schedule

DOUBLE = torch.float64
TIMES = torch.linspace(0, 1, 101, dtype=DOUBLE)


def test_the_way_goes_from_0_to_1_at_the_rate_it_says() -> None:
    way, rate = (value.detach() for value in random_schedule().way(TIMES))
    torch.testing.assert_close(way[[0, -1]], torch.tensor([0.0, 1.0], dtype=DOUBLE), rtol=0, atol=1e-15)
    assert float(rate.min()) > 0
    assert float(rate.max() / rate.min()) > 20
    points, weights = gauss_legendre()
    gone = torch.stack([random_schedule().way(a + 0.01 * points)[1].detach() @ weights for a in TIMES[:-1]]) * 0.01
    torch.testing.assert_close(gone.cumsum(0), way[1:], rtol=1e-12, atol=1e-15)


def test_it_preserves_variance_between_its_ends_and_is_linear_at_first() -> None:
    sde = random_schedule(log_snr_max=12.0, log_snr_min=-7.0)
    here = sde.at(TIMES)
    torch.testing.assert_close(here.alpha**2 + here.sigma**2, torch.ones_like(TIMES), rtol=0, atol=1e-15)
    torch.testing.assert_close(2 * torch.log(here.alpha / here.sigma), here.log_snr, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(here.log_snr[[0, -1]], torch.tensor([12.0, -7.0], dtype=DOUBLE), rtol=1e-15, atol=0)
    inner = TIMES[10:-10]
    assert float((LearnedSDE(12.0, -7.0).log_snr(inner) - (12 - 19 * inner)).abs().max()) < 0.01 * 19


@pytest.mark.parametrize("seed", range(3))
def test_a_few_calls_of_the_network_invert_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sde, calls = random_schedule(seed), 0
    whole = LearnedSDE._way

    def counted(self: LearnedSDE, t: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return whole(self, t, weights)

    log_snr = torch.linspace(14.0, -10.0, 999, dtype=DOUBLE)
    monkeypatch.setattr(LearnedSDE, "_way", counted)
    t = sde.time_at_log_snr(log_snr)
    assert calls <= 8
    torch.testing.assert_close(sde.log_snr(t), log_snr.clamp(-9.0, 13.3), rtol=0, atol=1e-13)
    assert torch.equal(t[log_snr >= 13.3], torch.zeros(sum(log_snr >= 13.3), dtype=DOUBLE))


def test_a_schedule_with_cliffs_and_plateaus_is_inverted_too() -> None:
    """Where Newton's steps leave the bracket they are bisections."""
    sde = random_schedule()
    with torch.no_grad():
        sde.log_slope.fill_(-5.0)
        sde.log_heights[::2] = -5.0
        sde.log_rates.add_(0.5)
    log_snr = sde.log_snr(TIMES)
    t = sde.time_at_log_snr(log_snr)
    torch.testing.assert_close(sde.log_snr(t), log_snr, rtol=0, atol=1e-10)


def everything(sde: SDE) -> list[Tensor]:
    """Return what others make of a process: marginals, times, grids, densities of times."""
    u = TIMES[1:-1]
    distributions = [get_time_distribution(name, sde, 0.0) for name in ("uniform", "log_snr", "edm")]
    return [
        *vars(sde.at(u)).values(),
        sde.alpha(u),
        sde.sigma(u),
        sde.diffusion(u),
        *sde.transition(u[:-1], u[1:]),
        sde.time_at_log_snr(12 - 18 * u),
        torch.tensor([sde.t_max, sde.prior_std]),
        log_snr_rate(sde, u),
        *(time_grid(sde, grid, 6) for grid in GRIDS),
        *(each.quantile(u) for each in distributions),
    ]


def test_nothing_is_remembered_while_the_schedule_moves() -> None:
    """What has been asked before, and moved since, answers as one that was made just now."""
    moving = random_schedule(0, learn_ends=True)
    before = everything(moving)
    fresh = random_schedule(1, learn_ends=True)
    fresh.learned_ends.data -= 0.5  # type: ignore[union-attr]
    with torch.no_grad():
        for mine, other in zip(moving.parameters(), fresh.parameters(), strict=True):
            mine.add_(other - mine)
            mine.copy_(other)
    after, expected = everything(moving), everything(fresh)
    assert all(torch.equal(a, b) for a, b in zip(after, expected, strict=True))
    assert not torch.equal(after[2], before[2])


def test_as_a_process_it_has_no_gradient_by_its_weights_but_by_the_time() -> None:
    sde = random_schedule(learn_ends=True)
    assert not any(value.requires_grad for value in everything(sde))
    t = TIMES[1:-1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(sde.log_snr(t).sum(), t)
    torch.testing.assert_close(slope, -22.3 * sde.way(t)[1].detach(), rtol=1e-6, atol=0)
    assert all(value.requires_grad for value in (*sde.way(TIMES), sde.ends))


def test_ends_that_do_not_fall_are_refused() -> None:
    with pytest.raises(UserError, match="log_snr_min=3 must lie below log_snr_max=3"):
        LearnedSDE(3.0, 3.0)


def test_it_is_a_part_of_the_state_only_where_it_is_learned() -> None:
    assert list(random_schedule().state_dict()) == ["log_slope", "log_heights", "log_rates", "centres"]
    assert "learned_ends" in random_schedule(learn_ends=True).state_dict()
    assert not hasattr(VPSDE(), "state_dict")
