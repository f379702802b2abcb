"""Distributions of noise levels: densities, ends, and what stratification gains."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.sde import (
    SDE,
    VESDE,
    VPSDE,
    DDPMLadder,
    NCSNLadder,
    RectifiedFlow,
    SubVPSDE,
    cosine_betas,
    ddpm_betas,
    geometric_sigmas,
)
from score_sde.sde.fractions import LogitNormal, Mode
from score_sde.sde.times import (
    LogNormal,
    Shifted,
    TimeDistribution,
    TimeShape,
    UniformLogSNR,
    UniformRung,
    UniformTime,
    get_time_distribution,
    log_snr_rate,
    sample_times,
)
from tests.schedules import random_schedule

T_MIN = 1e-4
SDES = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(),
    "ddpm": DDPMLadder(ddpm_betas(50)),
    "flow": RectifiedFlow(),
    "learned": random_schedule(),
}
LEVELS: dict[str, Callable[[SDE, float], TimeDistribution]] = {
    "uniform": UniformTime,
    "log_snr": UniformLogSNR,
    "edm": lambda sde, t_min: LogNormal(sde, t_min, -1.2, 1.2),
    "logit_normal": lambda sde, t_min: LogitNormal(sde, t_min, -1.0, 2.0),
    "mode": lambda sde, t_min: Mode(sde, t_min, 1.29),
    "heavy ends": lambda sde, t_min: Mode(sde, t_min, -0.9),
    "shifted": lambda sde, t_min: Shifted(lambda first: LogitNormal(sde, first, 0.0, 1.0), sde, t_min, 3.0),
}


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_rate_of_log_snr_is_the_likelihood_weighting(sde: SDE) -> None:
    """`-d log_snr / dt = g^2 / sigma^2`: importance sampling for one is uniform in the other."""
    t = torch.linspace(T_MIN, 0.999, 40, dtype=torch.float64)
    torch.testing.assert_close(log_snr_rate(sde, t), sde.diffusion_squared(t) / sde.sigma(t) ** 2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_density_is_that_of_the_quantiles(sde: SDE, name: str) -> None:
    """`density(quantile(u)) dt/du = 1`, and the quantiles run between t_min and T."""
    levels = LEVELS[name](sde, T_MIN)
    u = torch.linspace(0.001, 0.999, 101, dtype=torch.float64, requires_grad=True)
    t = levels.quantile(u)
    (slope,) = torch.autograd.grad(t.sum(), u)
    torch.testing.assert_close(levels.density(t.detach()) * slope.abs(), torch.ones_like(u), rtol=1e-9, atol=0)
    ends = levels.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64)).sort().values
    last = sde.t_max if name in ("log_snr", "edm") else 1.0
    torch.testing.assert_close(ends, torch.tensor([T_MIN, last], dtype=torch.float64), rtol=1e-7, atol=0)


def test_logits_are_normal_and_the_mode_is_the_published_function() -> None:
    u = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    t = LogitNormal(RectifiedFlow(), 0.0, 0.5, 0.8).quantile(u)
    torch.testing.assert_close(torch.logit(t), 0.5 + 0.8 * torch.special.ndtri(u), rtol=1e-12, atol=1e-12)
    v = 1 - u
    published = 1 - v - 1.29 * (torch.cos(math.pi / 2 * v) ** 2 - 1 + v)
    torch.testing.assert_close(Mode(RectifiedFlow(), 0.0, 1.29).quantile(u), published, rtol=1e-12, atol=1e-12)


def test_a_shift_is_one_in_log_snr_under_rectified_flow() -> None:
    sde, u = RectifiedFlow(), torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    plain, moved = (get_time_distribution("mode", sde, 0.0, TimeShape(shift=a)).quantile(u) for a in (1.0, 3.0))
    difference = sde.log_snr(moved) - sde.log_snr(plain)
    torch.testing.assert_close(difference, torch.full_like(u, -2 * math.log(3)), rtol=1e-10, atol=0)


def test_edm_levels_are_log_normal() -> None:
    """Where the range cuts nothing off, log rho has the asked mean and standard deviation, within 4 standard errors."""
    sde, count = VESDE(1e-4, 1e4), 40_000
    t = sample_times(
        LogNormal(sde, 1e-5, -1.2, 1.2), BatchNoise(count, torch.Generator().manual_seed(0)), stratified=False
    )
    log_rho = torch.log(sde.sigma(t))
    assert abs(log_rho.mean() + 1.2) < 4 * 1.2 / count**0.5
    assert abs(log_rho.std() - 1.2) < 4 * 1.2 / (2 * count) ** 0.5


@pytest.mark.parametrize("ladder", [DDPMLadder(cosine_betas(8)), NCSNLadder(geometric_sigmas(8))], ids=["ddpm", "ncsn"])
def test_rungs_are_visited_alike(ladder) -> None:
    levels = UniformRung(ladder)
    generator = torch.Generator().manual_seed(0)
    # Stratified batches of twice the ladder's size visit every rung just twice.
    index = ladder.index(sample_times(levels, BatchNoise(16, generator))).round()
    torch.testing.assert_close(ladder.time(index), ladder.time(index.round()), rtol=1e-14, atol=0)
    assert torch.bincount(index.long(), minlength=8).tolist() == [2] * 8
    index = ladder.index(sample_times(levels, BatchNoise(8000, generator), stratified=False)).round().long()
    assert ((torch.bincount(index, minlength=8) / 8000 - 1 / 8).abs() < 4 * (7 / 64 / 8000) ** 0.5).all()
    assert levels.density(torch.tensor([0.5])).item() == 1 / 8


def batches_of_times(stratified: bool, count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    levels = UniformTime(VPSDE(), 0.0)
    return torch.stack([sample_times(levels, BatchNoise(size, generator), stratified) for _ in range(count)])


def test_stratification_divides_the_variance_by_the_batch_size_squared() -> None:
    """For the mean of t: 1 / (12 B) becomes 1 / (12 B^3). Variances of n draws are known to a relative sqrt(2 / n)."""
    count, size = 8000, 8
    for stratified, expected in ((False, 1 / (12 * size)), (True, 1 / (12 * size**3))):
        variance = batches_of_times(stratified, count, size).mean(1).var().item()
        assert math.isclose(variance, expected, rel_tol=4 * (2 / count) ** 0.5)


def test_stratified_times_cover_each_interval_and_are_uniform_for_each_example() -> None:
    size = 8
    t = batches_of_times(True, 5000, size)
    assert torch.equal((t * size).floor().sort(dim=1).values, torch.arange(8.0, dtype=torch.float64).expand(5000, 8))
    assert ((t.mean(0) - 0.5).abs() < 4 * (1 / 12 / 5000) ** 0.5).all()


def test_bad_range_is_explained() -> None:
    with pytest.raises(UserError, match=r"t_min=0.0 must lie between 0 and 1.0"):
        UniformLogSNR(VPSDE(), 0.0)
    with pytest.raises(UserError, match=r"t_min=2.0 must lie"):
        UniformLogSNR(VPSDE(), 2.0)
