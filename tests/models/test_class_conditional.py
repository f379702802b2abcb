"""A model of two classes, each one Gaussian: likelihoods and samples given the class are those of its Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from score_sde.models import ClassConditional, ScoreModel
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver, log_likelihood

FLOAT = torch.float64
MEANS, STD = torch.tensor([[1.0, 0.0], [-0.5, 0.5]], dtype=FLOAT), 0.3


class Noise(nn.Module):
    """`E[eps | x_t, class]` of `N(m, s^2)`: `sigma (x - alpha m) / (alpha^2 s^2 + sigma^2)`. Labels are times."""

    def forward(self, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        alpha, sigma = VPSDE().alpha(t)[:, None], VPSDE().sigma(t)[:, None]
        return sigma * (x - alpha * MEANS[classes]) / (alpha**2 * STD**2 + sigma**2)


def test_likelihoods_and_samples_given_the_class():
    sde, classes = VPSDE(), torch.tensor([0, 1, 1, 0])
    model = ClassConditional(ScoreModel(Noise(), sde, "noise", lambda t: t, scale_input=False), classes)
    x = MEANS[classes] + 0.3 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=FLOAT)
    result = log_likelihood(model, x, divergence="exact", t_min=1e-4)
    alpha, sigma = sde.alpha(torch.tensor(1e-4, dtype=FLOAT)), sde.sigma(torch.tensor(1e-4, dtype=FLOAT))
    variance = alpha**2 * STD**2 + sigma**2
    square = (x - alpha * MEANS[classes]).square().sum(1)
    expected = -0.5 * square / variance - math.log(2 * math.pi) - torch.log(variance)
    # The prior's mismatch, of up to alpha_T |m| |x_T|.
    assert float((result.log_prob - expected).abs().max()) < 0.03

    x_T = sde.prior_sample((4, 2), seeds=range(4), dtype=FLOAT)
    x_0 = get_solver("dpmpp_3m", num_steps=200)(model, x_T).x
    T = torch.tensor(sde.T, dtype=FLOAT)
    std_T = torch.sqrt(sde.alpha(T) ** 2 * STD**2 + sde.sigma(T) ** 2)
    exact = MEANS[classes] + STD * (x_T - sde.alpha(T) * MEANS[classes]) / std_T
    assert float((x_0 - exact).abs().max()) < 1e-3
