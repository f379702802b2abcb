"""Processes that end in nothing but noise, at `alpha(T) = 0`: solved from there, and their densities exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from score_sde.models import GaussianMixture, ScoreModel
from score_sde.models.score_model import PARAMETRISATIONS
from score_sde.sde import SDE, RectifiedFlow
from score_sde.solvers import get_solver, log_likelihood
from score_sde.solvers.grids import time_grid
from tests.noise_ends import CosineSDE

DOUBLE = torch.float64
PROCESSES = [RectifiedFlow(), CosineSDE()]


def name_of(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, SDE) else None


def mixture(sde: SDE) -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.0], [1.5, 0.5]], dtype=DOUBLE)
    return GaussianMixture(sde, torch.tensor([1.0, 2.0]), means, 0.09 * torch.eye(2).expand(2, 2, 2))


class Network(nn.Module):
    """What a network of a prediction would answer that has learnt a mixture."""

    def __init__(self, model: GaussianMixture, prediction: str) -> None:
        super().__init__()
        self.model, self.prediction = model, prediction

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.model.sde.at(t).to(x)
        data = self.model.denoise(x, t)
        a, b = PARAMETRISATIONS[self.prediction](alpha, sigma, 1.0)
        return a * data + b * (x - alpha * data) / sigma


@pytest.mark.parametrize("prediction", PARAMETRISATIONS)
@pytest.mark.parametrize("solver", ["default", "ddim", "heun", "dpmpp_2m", "deis", "ode"])
def test_every_prediction_is_sampled_alike(prediction: str, solver: str) -> None:
    """Of noise and score too, which say nothing of the data at `T`: there they answer with the mean, which is exact."""
    exact = mixture(RectifiedFlow())
    model = ScoreModel(Network(exact, prediction), exact.sde, prediction, noise_label=lambda t: t, scale_input=False)
    model.gaussian = exact.gaussian
    x_T = exact.sde.prior_sample((16, 2), seeds=range(16), dtype=DOUBLE)
    options = {} if solver == "ode" else {"num_steps": 6}
    found, expected = (get_solver(solver, **options)(m, x_T).x for m in (model, exact))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
def test_the_first_step_is_the_exact_one(sde: SDE) -> None:
    """From noise `z = x_T / sigma(T)`, DDIM goes to `alpha D + sigma z`, with `D` the mean, to the digits of `GONE`."""
    model = mixture(sde)
    x_T = sde.prior_sample((4, 2), seeds=range(4), dtype=DOUBLE)
    first = time_grid(sde, "uniform_t", 5)[1]
    found = get_solver("ddim", grid=[sde.T, float(first)], denoise=False)(model, x_T).x
    expected = sde.alpha(first) * model.gaussian.mean + sde.sigma(first) * x_T / sde.prior_std
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
def test_densities_are_exact(sde: SDE) -> None:
    model = mixture(sde)
    x = torch.tensor([[-1.0, 0.2], [1.2, 0.9], [0.3, 0.3], [2.5, -0.5]], dtype=DOUBLE)
    found = log_likelihood(model, x, divergence="exact", rtol=1e-8, atol=1e-8).log_prob
    expected = model.log_prob(x, torch.tensor(sde.t_min, dtype=DOUBLE))
    assert float((found - expected).abs().max()) / 2 < 1e-6


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
def test_the_prior_is_that_of_the_end_but_for_a_millionth_where_log_snrs_begin(sde: SDE) -> None:
    here = sde.at(sde.t_max)
    assert float(here.alpha / here.sigma) == pytest.approx(1e-3, rel=1e-9)
    assert float(here.sigma) == pytest.approx(sde.prior_std, rel=1.1e-3)
    assert float(sde.log_snr(time_grid(sde, "uniform_log_snr", 6)[1])) == pytest.approx(
        float(here.log_snr + (sde.at(sde.t_min).log_snr - here.log_snr) / 5), rel=1e-9
    )


def test_the_default_follows_the_flow() -> None:
    model = mixture(RectifiedFlow())
    x_T = model.sde.prior_sample((64, 2), seeds=range(64), dtype=DOUBLE)
    exact = get_solver("ode", rtol=1e-10, atol=1e-10, denoise=False, t_min=1e-5)(model, x_T).x
    errors = [
        float((get_solver("default", num_steps=n)(model, x_T).x - exact).norm(dim=1).median()) for n in (6, 12, 40)
    ]
    assert errors[0] < 0.03
    assert errors[1] < 0.004
    assert errors[2] < 1e-4
