"""Arrays, dtypes, shapes and times that models are asked with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.models import MLP, GaussianMixture, QuantisedModel, ScoreModel
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver, log_likelihood

VP = VPSDE()
FLOAT = torch.float64
X = torch.tensor([[0.3, -0.4], [1.0, 0.2], [0.1, 0.1]], dtype=FLOAT)
T = torch.tensor([0.1, 0.5, 1.0], dtype=FLOAT)


class Flat(nn.Module):
    """The network takes vectors of two numbers, and has `factor` outputs for each of them."""

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.linear, self.factor = nn.Linear(2, 2 * factor), factor

    def forward(self, x, labels):
        return torch.sin(self.linear(x) + 0.01 * labels[:, None])


def mixture() -> GaussianMixture:
    return GaussianMixture(VP, torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])


def score_model(prediction: str = "noise") -> ScoreModel:
    torch.manual_seed(0)
    return ScoreModel(Flat(), VP, prediction)


def quantised_model() -> QuantisedModel:
    torch.manual_seed(0)
    return QuantisedModel(Flat(3), VP, levels=3)


@pytest.mark.parametrize("make", [score_model, quantised_model])
def test_float64_states_of_a_float32_network_are_rounded_for_the_network_alone(make) -> None:
    """The coefficient of `x` at small noise is large: rounding it to float32 would show in the seventh digit."""
    single, double = make(), make().double()
    for name in ("score", "denoise", "noise"):
        found, exact = getattr(single, name)(X, T), getattr(double, name)(X, T)
        assert found.dtype == FLOAT
        torch.testing.assert_close(found, exact, rtol=3e-5, atol=1e-6)
    # What the network predicts does not matter as the noise goes to 0: the state's digits are all there.
    t = torch.tensor(1e-12, dtype=FLOAT)
    torch.testing.assert_close(single.denoise(X, t), double.denoise(X, t), rtol=0, atol=1e-11)


@pytest.mark.parametrize("make", [score_model, quantised_model])
def test_float32_states_of_a_float64_network(make) -> None:
    double = make().double()
    found, exact = double.score(X.float(), T), double.score(X.float().double(), T)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_likelihoods_and_solvers_take_float64_states_of_a_float32_network() -> None:
    single, double = score_model(), score_model().double()
    found = log_likelihood(single, X, divergence="exact", rtol=1e-5, atol=1e-5).log_prob
    assert found.dtype == FLOAT
    torch.testing.assert_close(found, log_likelihood(double, X, divergence="exact").log_prob, rtol=0, atol=1e-3)
    found = get_solver("dpmpp_2m", num_steps=8)(single, X).x
    torch.testing.assert_close(found, get_solver("dpmpp_2m", num_steps=8)(double, X).x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [mixture, score_model, quantised_model])
def test_arrays_whole_numbers_and_times_as_numbers(make) -> None:
    model = make()
    whole = torch.tensor([[0, 1], [2, -1], [0, 0]])
    for name in ("score", "denoise"):
        ask = getattr(model, name)
        assert torch.equal(ask(X.numpy(), T.numpy()), ask(X, T))
        assert torch.equal(ask(X.numpy()[::-1], 0.5), ask(X.flip(0), torch.tensor(0.5)))
        assert torch.equal(ask(whole, T), ask(whole.float(), T))
        assert torch.equal(ask(whole.numpy().astype(np.int32), 1), ask(whole.float(), torch.tensor(1.0)))
        assert ask(X[:0], torch.tensor(0.5)).shape == (0, 2)


@pytest.mark.parametrize("make", [mixture, score_model, quantised_model])
@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (X, torch.tensor(1.1), r"t must lie in \[0, 1\], where the process does, not from 1.1 to 1.1"),
        (X, torch.tensor([0.5, -0.1, 0.2]), r"t must lie in \[0, 1\], where the process does, not from -0.1 to 0.5"),
        (X, torch.tensor(torch.nan), r"t must lie in \[0, 1\]"),
        (X, torch.zeros(2), r"t must have shape \(\) or \(3,\), as x has 3 examples, not \(2,\)"),
        (X, torch.zeros(3, 1), r"t must have shape .* not \(3, 1\)"),
        (X, "three", "t must be a tensor, an array or a number, not str"),
        (X, None, "t must be a tensor, an array or a number, not NoneType"),
        (X[0], torch.tensor(0.5), r"x must have shape \(B, \*dims\), not \(2,\)"),
        (X.bool(), torch.tensor(0.5), "x must be a tensor or array of real numbers, not torch.bool"),
        (X.to(torch.complex64), torch.tensor(0.5), "x must be .* real numbers, not torch.complex64"),
        ([[0.0, 1.0]], torch.tensor(0.5), "x must be a tensor or array of real numbers, not list"),
        (np.array([["a", "b"]]), torch.tensor(0.5), "x must be a tensor or array of real numbers, not <U1"),
    ],
)
def test_what_is_no_state_or_time_is_refused(make, x, t, message: str) -> None:
    for name in ("score", "denoise"):
        with pytest.raises(UserError, match=message):
            getattr(make(), name)(x, t)


def test_times_in_float32_may_lie_a_rounding_beyond_the_end() -> None:
    sde = VPSDE()
    sde.T = 0.1
    model = GaussianMixture(sde, torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    assert float(torch.tensor(0.1).double()) > sde.T
    torch.testing.assert_close(model.score(X, torch.tensor(0.1)), -X, rtol=1e-9, atol=0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"x of shape \(3, 3\) has 3 numbers an example; this mixture has 2 dimensions"):
        mixture().score(torch.zeros(3, 3), T)
    with pytest.raises(UserError, match=r"the network returns shape \(3, 4\) for x of shape \(3, 2\)"):
        ScoreModel(Flat(2), VP).score(X, T)
    with pytest.raises(
        UserError, match=r"the network returns shape \(3, 4\) for x .*; logits of 3 levels have \(3, 6\)"
    ):
        QuantisedModel(Flat(2), VP, levels=3).score(X, T)
    with pytest.raises(UserError, match=r"this network takes 2 numbers an example, not \(3, 5\)"):
        ScoreModel(MLP(2, width=8, num_blocks=1), VP).score(torch.zeros(3, 5), T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.tensor([-1.0, 2.0])}, r"weights must not be negative, nor all 0, unlike \[-1.0, 2.0\]"),
        ({"weights": torch.zeros(2)}, r"weights must not be negative, nor all 0, unlike \[0.0, 0.0\]"),
        ({"weights": torch.tensor([torch.nan, 1.0])}, "the weights of a mixture must be real, finite numbers"),
        ({"means": torch.full((2, 2), torch.inf)}, "the means of a mixture must be real, finite numbers"),
        ({"covariances": torch.full((2, 2, 2), torch.nan)}, "the covariances of a mixture must be real, finite"),
        ({"means": torch.zeros(2)}, r"must have shapes \(K,\), \(K, d\) and \(K, d, d\)"),
        ({"means": torch.zeros(0, 2)}, r"must have shapes \(K,\), \(K, d\) and \(K, d, d\)"),
        ({"covariances": torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(2, 2, 2)}, "not symmetric: .* differ by 0.5"),
        ({"covariances": -torch.eye(2).expand(2, 2, 2)}, "negative eigenvalue -1"),
        ({"weights": [0.5, 0.5]}, "GaussianMixture: weights takes a tensor or array, not"),
    ],
)
def test_mixtures_that_are_none_are_refused(change, message: str) -> None:
    proper = {"weights": torch.ones(2), "means": torch.zeros(2, 2), "covariances": torch.eye(2).expand(2, 2, 2)}
    with pytest.raises(UserError, match=message):
        GaussianMixture(VP, **{**proper, **change})


def test_a_mixture_of_arrays_is_one_of_tensors() -> None:
    weights, means, covariances = (
        torch.tensor([1, 3]),
        torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
        torch.eye(2).expand(2, 2, 2),
    )
    expected = GaussianMixture(VP, weights, means, covariances).log_prob(X, T)
    arrays: list[Any] = [weights.numpy(), means.numpy(), covariances.numpy()]
    found = GaussianMixture(VP, *arrays).log_prob(X, T)
    assert torch.equal(found, expected)
