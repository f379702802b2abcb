"""Grids against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE
from score_sde.solvers.grids import GRIDS, time_grid

PROCESSES = [VPSDE(), SubVPSDE(), VESDE(0.002, 80.0), RectifiedFlow()]


@pytest.mark.parametrize("name", list(GRIDS))
@pytest.mark.parametrize("sde", PROCESSES)
def test_every_grid_falls_from_the_end_of_time_to_t_min(name: str, sde: SDE) -> None:
    times = time_grid(sde, name, 12)
    assert times.shape == (12,)
    assert times.dtype == torch.float64
    assert (float(times[0]), float(times[-1])) == (sde.T, sde.t_min)
    assert bool((times.diff() < 0).all())


@pytest.mark.parametrize("sde", PROCESSES)
def test_definitions(sde: SDE) -> None:
    def grid(name: str) -> torch.Tensor:
        """Return the times, of which the first is that from which those uniform in log-SNR begin."""
        return torch.cat([torch.tensor([sde.t_max], dtype=torch.float64), time_grid(sde, name, 9)[1:]])

    ratio = {name: torch.exp(-0.5 * sde.log_snr(grid(name))) for name in ("uniform_log_snr", "karras")}
    steps = ratio["uniform_log_snr"].log().diff()
    assert torch.allclose(steps, steps[0].expand(8), rtol=1e-8)
    steps = (ratio["karras"] ** (1 / 7)).diff()
    assert torch.allclose(steps, steps[0].expand(8), rtol=1e-8)
    theta = torch.exp(-0.5 * sde.log_snr(grid("log_angle"))).arctan()
    steps = (theta.log() + 2 * (theta + 0.3).log()).diff()
    assert torch.allclose(steps, steps[0].expand(8), rtol=1e-4)
    steps = time_grid(sde, "uniform_t", 9).diff()
    assert torch.allclose(steps, steps[0].expand(8), rtol=1e-12)
    steps = time_grid(sde, "quadratic_t", 9).sqrt().diff()
    assert torch.allclose(steps, steps[0].expand(8), rtol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES)
def test_shifted_times_are_moved_in_log_odds(sde: SDE) -> None:
    """The logit of `t / T` moves by `log a`, so that the first and the last time of a grid stay."""
    for name in ("uniform_t", "uniform_log_snr"):
        times = time_grid(sde, f"{name}:3", 9)
        assert (float(times[0]), float(times[-1])) == (sde.T, pytest.approx(sde.t_min, rel=1e-9))
        before = torch.logit(times[1:] / sde.T) - math.log(3)
        last = sde.T * float(torch.sigmoid(before[-1]))
        expected = torch.logit(time_grid(sde, name, 9, last)[1:] / sde.T)
        torch.testing.assert_close(before, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(time_grid(sde, "karras:1", 9), time_grid(sde, "karras", 9), rtol=0, atol=0)
    for wrong, said in {
        "karras:": "not by ''",
        "karras:0": "not by '0'",
        "karras:nan": "nan",
        "odd:3": "'odd'",
    }.items():
        with pytest.raises(UserError, match=said):
            time_grid(sde, wrong, 9)


def test_karras_noise_levels() -> None:
    """EDM's published levels for `sigma` from 80 to 0.002 (its equation 5), which VE reads as they are."""
    sde = VESDE(0.002, 80.0, t_min=0.0)
    sigma = sde.sigma(time_grid(sde, "karras", 5))
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    assert sigma.tolist() == pytest.approx(expected, rel=1e-9)


def test_optimised_steps_lower_their_bound() -> None:
    from score_sde.solvers.grids import _error_bound

    sde = VPSDE()
    bound = {name: float(_error_bound(0.5 * sde.log_snr(time_grid(sde, name, 8)))) for name in GRIDS}
    assert min(bound, key=lambda name: bound[name]) == "optimised"
    assert bound["optimised"] < 0.9 * bound["uniform_log_snr"]


def test_a_list_is_taken_as_it_is() -> None:
    assert time_grid(VPSDE(), [1.0, 0.5, 0.01], 3).tolist() == [1.0, 0.5, 0.01]


@pytest.mark.parametrize(
    ("grid", "word"),
    [
        ("karas", "karas"),
        ([1.0, 0.5], "num_steps is 3"),
        ([1.0, 0.2, 0.5], "decrease"),
        ([0.9, 0.5, 0.2], "start at T"),
        ([1.0, 0.5, 1e-9], "above t_min"),
        ([1.0, math.nan, 0.1], "decrease"),
        (["a", 0.5, 0.1], "a list of times"),
    ],
)
def test_bad_grids(grid: object, word: str) -> None:
    with pytest.raises(UserError, match=word):
        time_grid(VPSDE(), grid, 3)  # type: ignore[arg-type]
