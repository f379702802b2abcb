"""A model with its condition is a model: of two classes, each one Gaussian, whose likelihoods and samples are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.models import Given, ModelWrapper, ScoreModel, rows_of
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver, log_likelihood

FLOAT = torch.float64
MEANS, STD = torch.tensor([[1.0, 0.0], [-0.5, 0.5]], dtype=FLOAT), 0.3
CLASSES = torch.tensor([0, 1, 1, 0])
GIVEN = Condition({"class": CLASSES})


class Noise(nn.Module):
    """`E[eps | x_t, class]` of `N(m, s^2)`: `sigma (x - alpha m) / (alpha^2 s^2 + sigma^2)`. Noise labels are times."""

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        alpha, sigma = VPSDE().alpha(t)[:, None], VPSDE().sigma(t)[:, None]
        return sigma * (x - alpha * MEANS[condition.values["class"]]) / (alpha**2 * STD**2 + sigma**2)


def score_model() -> ScoreModel:
    return ScoreModel(Noise(), VPSDE(), "noise", lambda t: t, scale_input=False)


def test_likelihoods_and_samples_given_the_class():
    sde, model = VPSDE(), Given(score_model(), GIVEN)
    x = MEANS[CLASSES] + 0.3 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=FLOAT)
    result = log_likelihood(model, x, divergence="exact", t_min=1e-4)
    alpha, sigma = sde.alpha(torch.tensor(1e-4, dtype=FLOAT)), sde.sigma(torch.tensor(1e-4, dtype=FLOAT))
    variance = alpha**2 * STD**2 + sigma**2
    square = (x - alpha * MEANS[CLASSES]).square().sum(1)
    expected = -0.5 * square / variance - math.log(2 * math.pi) - torch.log(variance)
    # The prior's mismatch, of up to alpha_T |m| |x_T|.
    assert float((result.log_prob - expected).abs().max()) < 0.03

    x_T = sde.prior_sample((4, 2), seeds=range(4), dtype=FLOAT)
    x_0 = get_solver("dpmpp_3m", num_steps=200)(model, x_T).x
    T = torch.tensor(sde.T, dtype=FLOAT)
    std_T = torch.sqrt(sde.alpha(T) ** 2 * STD**2 + sde.sigma(T) ** 2)
    exact = MEANS[CLASSES] + STD * (x_T - sde.alpha(T) * MEANS[CLASSES]) / std_T
    assert float((x_0 - exact).abs().max()) < 1e-3


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([3, 0]), torch.tensor([True, False, True, False])])
def test_the_model_of_some_rows_is_some_rows_of_the_model(rows):
    """However often it is wrapped."""
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=FLOAT), torch.tensor(0.3, dtype=FLOAT)
    model = Given(score_model(), GIVEN)
    for whole in (model, ModelWrapper(ModelWrapper(model))):
        part = rows_of(whole, rows)
        assert part.sde is model.sde
        for name in ("score", "denoise"):
            torch.testing.assert_close(getattr(part, name)(x[rows], t), getattr(whole, name)(x, t)[rows])
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(2), dtype=FLOAT)
    times = torch.linspace(0.1, 0.9, 4, dtype=FLOAT)
    part = rows_of(model, rows)
    torch.testing.assert_close(part.noise(x[rows], times[rows]), model.noise(x, times)[rows])
    errors = model.noise_error(x, noise, times)
    torch.testing.assert_close(part.noise_error(x[rows], noise[rows], times[rows]), errors[rows])
    torch.testing.assert_close(errors, model.noise(model.sde.perturb(x, noise, times), times) - noise)


def test_a_plain_model_is_the_same_for_all_rows_and_without_a_condition_it_is_itself():
    plain = score_model()
    assert rows_of(plain, slice(2)) is plain

    class Unconditional:
        sde, no_density = VPSDE(), "for a reason"

        def score(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

    given = Given(Unconditional(), None)
    assert given.score(torch.ones(2, 1), torch.tensor(0.5)).tolist() == [[-1.0], [-1.0]]
    assert rows_of(given, slice(1)).no_density == "for a reason"
