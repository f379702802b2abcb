"""Noise of tuned samplers, learned from data."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE
from score_sde.solvers import get_solver
from score_sde.solvers.fast.default import recommended
from score_sde.solvers.fast.learned_noise import energy_distance, learn_noise
from score_sde.solvers.fast.table import integrate
from score_sde.solvers.fast.tuned import with_noise

DOUBLE = torch.float64


class Rough:
    """A model whose score is off by a wave, which noise averages and the flow keeps."""

    def __init__(self, model: GaussianMixture) -> None:
        self.sde, self.gaussian, self._model = model.sde, model.gaussian, model

    def score(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self._model.score(x, t) + 0.7 * torch.sin(12 * x) / self.sde.sigma(t).to(x)

    def denoise(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x + (self.sde.sigma(t) ** 2).to(x) * self.score(x, t)


def two_modes() -> GaussianMixture:
    means = torch.tensor([[0.5], [-0.5]], dtype=DOUBLE)
    return GaussianMixture(VESDE(0.01, 50.0), torch.ones(2), means, torch.full((2, 1, 1), 0.04, dtype=DOUBLE))


def test_the_energy_distance_of_a_few_numbers() -> None:
    """2 * (0 + 3 + 1 + 2) / 4 - 1 - 3, and the closed form 2 |m| of point masses."""
    assert energy_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])) == pytest.approx(-1.0)
    far = energy_distance(torch.full((300, 2), 3.0), torch.full((200, 2), 7.0))
    assert far == pytest.approx(2 * math.sqrt(2) * 4, rel=1e-6)


def test_noise_brings_samples_nearer_to_the_data() -> None:
    """Learned amounts are at least as good as those that were tried for all steps together, from the same seeds."""
    truth = two_modes()
    model = Rough(truth)
    picked = torch.randint(2, (1000,), generator=torch.Generator().manual_seed(0))
    data = truth.means[picked] + 0.2 * torch.randn(1000, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    table = recommended(12, order=2).table(model.sde, model.gaussian)
    amounts = learn_noise(table, model, data, num_samples=500)
    assert len(amounts) == len(table.times)
    assert amounts[-1] == 0

    def distance(eta: float | list[float]) -> float:
        x_T = model.sde.prior_sample((500, 1), seeds=range(500), dtype=DOUBLE)
        made = with_noise(table, model.sde, eta)
        return energy_distance(integrate(made, model, x_T, SampleNoise(range(500), "solver")), data)

    assert distance(amounts) <= min(map(distance, (0.0, 0.35, 0.7, 1.0)))
    assert distance(amounts) < 0.5 * distance(0.0)
    x_T = model.sde.prior_sample((5, 1), seeds=range(5), dtype=DOUBLE)
    drawn = get_solver("tuned", table=table, eta=amounts)(model, x_T, seeds=range(5)).x
    made = with_noise(table, model.sde, amounts)
    torch.testing.assert_close(drawn, integrate(made, model, x_T, SampleNoise(range(5), "solver")), rtol=0, atol=1e-12)


def test_bad_amounts() -> None:
    model = two_modes()
    table = recommended(4).table(model.sde, model.gaussian)
    with pytest.raises(UserError, match="3 amounts, for the 5 steps"):
        get_solver("tuned", table=table, eta=[0.1, 0.2, 0.3])
    with pytest.raises(UserError, match="no noise was learned"):
        get_solver("tuned", table=table, eta="learned")
    with pytest.raises(UserError, match="not along the axes"):
        learn_noise(recommended(4).table(model.sde), model, torch.zeros(3, 1))
