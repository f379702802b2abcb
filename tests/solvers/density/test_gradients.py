"""Gradients of log-likelihoods by the examples: closed forms, and differences of a network's in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.models import MLP, GaussianMixture, ScoreModel
from score_sde.sde import VPSDE
from score_sde.solvers import log_likelihood

FLOAT = torch.float64
SDE = VPSDE()
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.8]], dtype=FLOAT)
X = torch.tensor([[0.4, -0.3], [-1.0, 0.6]], dtype=FLOAT)


# The exact divergence in float64 is that of `test_likelihood`.
@pytest.mark.parametrize(
    ("divergence", "dtype", "rtol"),
    [("hutchinson", FLOAT, 1e-5), ("hutchinson", torch.float32, 1e-4), ("exact", torch.float32, 1e-4)],
)
def test_of_a_gaussian_they_are_its_score(divergence: str, dtype: torch.dtype, rtol: float) -> None:
    """Also by a random estimate: that misses the divergence, but by as much everywhere."""
    model = GaussianMixture(SDE, torch.ones(1), torch.tensor([[0.3, -0.2]], dtype=FLOAT), COVARIANCE[None])
    T, t_min = (torch.tensor(t, dtype=FLOAT) for t in (SDE.T, SDE.t_min))
    x = X.to(dtype).clone().requires_grad_()
    log_prob = log_likelihood(
        model,
        x,
        divergence=divergence,
        prior=lambda x: model.log_prob(x, T),
        seeds=[0, 1],
        rtol=rtol,
        atol=rtol,
        differentiable=True,
    ).log_prob
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    score = model.score(X, t_min)
    assert gradient.dtype == dtype
    assert float((gradient - score).abs().max()) < 20 * rtol * float(score.abs().max())


def network(width: int = 16) -> MLP:
    torch.manual_seed(0)
    made = MLP(2, width=width, num_blocks=1)
    with torch.no_grad():
        for parameter in made.parameters():
            # The last layers, which are zero before training.
            if float(parameter.abs().max()) < 1e-6:
                parameter.normal_(std=0.3)
    return made


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_of_a_network_they_are_the_differences(divergence: str) -> None:
    """The network is differentiated twice: once for the divergence, once for the gradient."""
    single, double = ScoreModel(network(), SDE), ScoreModel(network().double(), SDE)
    direction = torch.tensor([[0.8, -0.6], [0.5, 1.2]], dtype=FLOAT)
    common: dict[str, Any] = {"divergence": divergence, "seeds": [0, 1], "t_min": 0.2}
    h = 1e-3
    up, down = (
        log_likelihood(double, X + step * direction, rtol=1e-6, atol=1e-6, **common).log_prob for step in (h, -h)
    )
    expected = (up - down) / (2 * h)
    for model, dtype, tolerance in ((double, FLOAT, 1e-5), (single, torch.float32, 1e-4)):
        x = X.to(dtype).clone().requires_grad_()
        log_prob = log_likelihood(model, x, differentiable=True, rtol=tolerance, atol=tolerance, **common).log_prob
        (gradient,) = torch.autograd.grad(log_prob.sum(), x)
        found = (gradient.double() * direction).sum(1)
        error = float((found - expected).abs().max() / expected.abs().max())
        assert error < 30 * tolerance


@pytest.mark.parametrize(
    ("method", "divergence"),
    [("euler", "exact"), ("midpoint", "hutchinson"), ("rk4", "exact"), ("explicit_adams", "exact"), ("adams", "exact")],
)
def test_of_two_steps_they_are_of_these_steps(method: str, divergence: str) -> None:
    """By examples and weights, to rounding: the adjoint equation by as few steps would miss them by half and more."""
    model = ScoreModel(network(width=2).double(), SDE)
    inputs = [X.clone().requires_grad_(), *model.parameters()]

    def log_prob(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {"method": method, "num_steps": 2, "t_min": 0.2, "seeds": [0, 1]}
        return log_likelihood(model, x, divergence=divergence, differentiable=True, **options).log_prob

    found = torch.autograd.grad(log_prob(*inputs).sum(), inputs, allow_unused=True)
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in found)
    assert torch.autograd.gradcheck(log_prob, inputs, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)
