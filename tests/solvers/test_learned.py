"""Solvers and likelihoods take a learned process as it is.

What they do depends on the marginals alone. So between the same log-SNRs a learned process and VP give the same
samples, of the same latents, by every method that is a function of the log-SNR.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VPSDE
from score_sde.sde.truncated import Truncated
from score_sde.solvers import get_solver, log_likelihood
from tests.schedules import random_schedule

DOUBLE = torch.float64
LEARNED = random_schedule(log_snr_max=9.0, log_snr_min=-8.0)


def vp() -> tuple[SDE, float]:
    """VP up to the learned process's last log-SNR, and the time of its first."""
    first, last = VPSDE().time_at_log_snr(torch.tensor([9.0, -8.0], dtype=DOUBLE)).tolist()
    return Truncated(VPSDE(), last), first


def mixture(sde: SDE) -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.0, 0.4], [1.5, 0.5, -0.3]], dtype=DOUBLE)
    return GaussianMixture(sde, torch.tensor([1.0, 2.0]), means, 0.09 * torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("default", {}),
        ("ddim", {"eta": 0.5}),
        ("heun", {"grid": "karras"}),
        ("deis", {"order": 3}),
        ("dpmpp_2m", {"grid": "optimised"}),
        ("unipc", {"grid": "log_angle"}),
        ("dpmpp_3m_sde", {}),
        ("sde", {}),
        ("pc", {"predictor": "ancestral", "grid": "uniform_log_snr"}),
        ("ode", {"method": "rk4", "grid": "uniform_log_snr"}),
    ],
    ids=str,
)
def test_samples_are_vps_between_the_same_log_snrs(name: str, options: dict[str, Any]) -> None:
    sde, first = vp()
    x_T = LEARNED.prior_sample((8, 3), seeds=range(8), dtype=DOUBLE)
    solver, other = (get_solver(name, num_steps=8, t_min=t_min, **options) for t_min in (0.0, first))
    found, expected = solver(mixture(LEARNED), x_T, seeds=range(8)), other(mixture(sde), x_T, seeds=range(8))
    torch.testing.assert_close(found.x, expected.x, rtol=1e-9, atol=1e-9)
    assert found.nfe == expected.nfe


def test_densities_are_exact() -> None:
    model = mixture(LEARNED)
    x = torch.tensor([[-1.0, 0.2, 0.4], [1.2, 0.9, -0.3], [0.3, 0.3, 0.0]], dtype=DOUBLE)

    def prior(x_T: torch.Tensor) -> torch.Tensor:
        return model.log_prob(x_T, torch.tensor(1.0, dtype=DOUBLE))

    found = log_likelihood(model, x, divergence="exact", rtol=1e-6, atol=1e-6, prior=prior).log_prob
    assert float((found - model.log_prob(x, torch.tensor(0.0, dtype=DOUBLE))).abs().max()) / 3 < 1e-6


@pytest.mark.parametrize("name", ["default", "dpmpp_2m"])
def test_a_solver_that_was_used_before_the_schedule_moved_solves_it_as_a_new_one(name: str) -> None:
    """Its table is made anew: training looks at samples by one solver again and again.

    Between the same ends the samples stay what they were.
    """
    sde = random_schedule(1)
    model, x_T = mixture(sde), sde.prior_sample((4, 3), seeds=range(4), dtype=DOUBLE)
    solver = get_solver(name, num_steps=6)
    before = solver(model, x_T).x
    with torch.no_grad():
        sde.centres.add_(0.1 * torch.linspace(0, 1, len(sde.centres)))
    after = solver(model, x_T).x
    assert torch.equal(after, get_solver(name, num_steps=6)(model, x_T).x)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
