"""What solvers are asked to start from: processes that can be solved, states that are numbers, seeds that are seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.control import Controlled, Masked, Projection, noised
from score_sde.models import GaussianMixture
from score_sde.sde import (
    SDE,
    VESDE,
    VPSDE,
    DDPMLadder,
    NCSNLadder,
    SubVPSDE,
    cosine_betas,
    ddpm_betas,
    geometric_sigmas,
)
from score_sde.solvers import Model, decode, encode, get_solver, log_likelihood
from score_sde.solvers.density.bounds import continuous_bound, discrete_bound, gaussian_decoder, score_flow_bound
from score_sde.solvers.fast.default import recommended
from score_sde.solvers.fast.tuning import tune
from score_sde.solvers.process import last_time
from tests.noise_ends import CosineSDE

FLOAT = torch.float64


class Process(SDE):
    """A user's process is made of two functions."""

    def __init__(self, alpha: Callable[[Tensor], Tensor], sigma: Callable[[Tensor], Tensor], T: float = 1.0) -> None:
        self._alpha, self._sigma, self.T = alpha, sigma, T

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigma(t)


def straight(T: float = 1.0) -> Process:
    return Process(lambda t: 1 - t, lambda t: t, T)


def mixture(sde: SDE) -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=FLOAT)
    return GaussianMixture(sde, torch.ones(2), means, 0.09 * torch.eye(2).expand(2, 2, 2))


X = torch.tensor([[0.3, -0.4], [1.0, 0.2]], dtype=FLOAT)
TABLE = recommended(6).table(VPSDE())


def sampling(name: str) -> Callable[[Model], Any]:
    return lambda model: get_solver(name, num_steps=6)(model, X, seeds=[0, 1])


STARTS: dict[str, Callable[[Model], Any]] = {
    **{
        name: sampling(name)
        for name in ("default", "ddim", "heun", "dpm_3", "deis", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "pc", "sde")
    },
    "tuned": lambda model: get_solver("tuned", table=TABLE)(model, X),
    "adaptive_sde": lambda model: get_solver("adaptive_sde")(model, X),
    "ode": lambda model: get_solver("ode")(model, X),
    "rk4": lambda model: get_solver("ode", method="rk4", num_steps=5)(model, X),
    "log_likelihood": lambda model: log_likelihood(model, X),
    "encode": lambda model: encode(model, X),
    "decode": lambda model: decode(model, X),
    "discrete_bound": lambda model: discrete_bound(model, X, gaussian_decoder(X), num_steps=4),
    "continuous_bound": lambda model: continuous_bound(model, X, gaussian_decoder(X)),
    "score_flow_bound": lambda model: score_flow_bound(model, X),
    "tune": lambda model: tune(model, [4], (2,)),
    "projection": lambda model: Controlled(
        get_solver("ddim", num_steps=5), Projection(Masked(torch.tensor([True, False])), X)
    )(model, X),
    "sdedit": lambda model: get_solver("ddim", num_steps=5)(*noised(model, X, 1.0)),
}


class Silent:
    """The model fails when it is asked anything."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the model was asked")

    denoise = score


@pytest.mark.parametrize("name", STARTS)
def test_a_process_that_is_none_is_refused_before_the_model_is_asked(name: str) -> None:
    with pytest.raises(UserError, match=r"^Process has a log-SNR that rises from t = 0\.001 to 0\.03"):
        STARTS[name](Silent(Process(lambda t: 1 - t / 2, lambda t: 1.1 - t)))


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        (
            lambda t: 1 - t / 2,
            lambda t: t * torch.where((t - 0.5).abs() < 0.1, math.nan, 1.0),
            "log-SNR nan at t = 0.4",
        ),
        (lambda t: 1 - t / 2, lambda t: torch.zeros_like(t), "log-SNR inf at t = 0.0"),
        (lambda t: t - 0.5, lambda t: t, "log-SNR nan at t = 0.001"),
        (lambda t: 1 - t / 2, lambda t: 1.1 - t, "log-SNR that rises from t = 0.001 to 0.03"),
        (lambda t: 1 - t / 2, lambda t: t * (t - 1.2).abs(), "log-SNR that rises from t = 0"),
    ],
)
def test_schedules_that_are_none_are_refused_by_name(alpha, sigma, message: str) -> None:
    with pytest.raises(UserError, match=f"^Process has .*{message}"):
        last_time(Process(alpha, sigma), None)


@pytest.mark.parametrize(
    "sde",
    [
        VPSDE(),
        VPSDE(0.0, 30.0),
        SubVPSDE(),
        VESDE(),
        VESDE(0.002, 1000.0),
        DDPMLadder(ddpm_betas(1000)),
        DDPMLadder(cosine_betas(1000)),
        NCSNLadder(geometric_sigmas(10)),
        straight(0.9999),
        straight(),
        # cos(pi / 2) is 6e-17 in float64: nothing beside sigma.
        CosineSDE(),
    ],
)
def test_processes_that_can_be_solved_pass(sde: SDE) -> None:
    assert last_time(sde, None) == sde.t_min
    assert last_time(sde, 0.0) == 0.0


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "sde", "adaptive_sde", "continuous_bound", "discrete_bound"])
def test_solvers_that_divide_by_sigma_need_some_at_the_last_time(name: str) -> None:
    sde = VPSDE(t_min=0.0)
    with pytest.raises(UserError, match=r"log-SNR of VPSDE at t_min = 0 is not finite: t_min must lie where there is"):
        STARTS[name](Silent(sde))


def test_the_density_at_time_0_is_the_mixtures() -> None:
    model = mixture(VPSDE())
    found = log_likelihood(model, X, t_min=0.0, divergence="exact").log_prob
    torch.testing.assert_close(found, model.log_prob(X, torch.zeros((), dtype=FLOAT)), rtol=0, atol=3e-2)


@pytest.mark.parametrize("name", ["dpmpp_2m", "pc", "ode"])
def test_arrays_are_taken_as_tensors(name: str) -> None:
    solver, model = get_solver(name, **({} if name == "ode" else {"num_steps": 6})), mixture(VPSDE())
    expected = solver(model, X, seeds=[0, 1]).x
    assert torch.equal(solver(model, X.numpy(), seeds=np.array([0, 1])).x, expected)  # type: ignore[arg-type]
    # Backwards in memory, or in another order of bytes, which tensors cannot be; whole numbers become float32.
    swapped = X.numpy().astype(X.numpy().dtype.newbyteorder())
    assert torch.equal(solver(model, swapped, seeds=[0, 1]).x, expected)  # type: ignore[arg-type]
    assert torch.equal(solver(model, X.numpy()[::-1], seeds=[1, 0]).x, expected.flip(0))  # type: ignore[arg-type]
    whole = torch.tensor([[0, 1], [2, -1]])
    assert torch.equal(solver(model, whole, seeds=[0, 1]).x, solver(model, whole.float(), seeds=[0, 1]).x)


@pytest.mark.parametrize("name", [name for name in STARTS if name not in ("tune", "projection", "sdedit")])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2), r"must have shape \(B, \*dims\), with at least one example and number, not \(2,\)"),
        (torch.zeros(0, 2), r"not \(0, 2\)"),
        (torch.zeros(2, 2, dtype=torch.complex64), "real numbers, not torch.complex64"),
        (torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), "finite numbers: example 1 has others"),
        (torch.tensor([[math.inf, 1.0]]), "finite numbers: example 0 has others"),
        (np.array([["a", "b"]]), "array of numbers"),
        ([[0.0, 1.0]], "a tensor or array, not"),
        (None, "a tensor or array, not None"),
    ],
)
def test_states_that_are_none_are_refused_before_the_model_is_asked(monkeypatch, name: str, x, message: str) -> None:
    start = STARTS[name]
    monkeypatch.setitem(start.__globals__, "gaussian_decoder", lambda x_0: lambda *_: None)
    monkeypatch.setitem(start.__globals__, "X", x)
    with pytest.raises(UserError, match=rf"(x|x_T|x_0|latents)\b.*{message}"):
        start(Silent(VPSDE()))


@pytest.mark.parametrize("seeds", [[0, -1], [0, 1.5], [0, "three"], [0, None], "ab"])
def test_what_is_no_seed_is_refused(seeds) -> None:
    with pytest.raises(UserError, match=r"seeds are whole numbers, not negative, unlike|seeds takes a list"):
        get_solver("pc", num_steps=3)(Silent(VPSDE()), X, seeds=seeds)
    with pytest.raises(UserError, match=r"seeds are whole numbers, not negative, unlike|seeds takes a list"):
        VPSDE().prior_sample((2, 2), seeds=seeds)


def test_seeds_are_one_an_example_of_any_size() -> None:
    with pytest.raises(UserError, match="3 seeds for a batch of 2: give one seed an example"):
        get_solver("sde", num_steps=3)(Silent(VPSDE()), X, seeds=range(3))
    with pytest.raises(UserError, match="1 seeds for a batch of 2: give one seed an example"):
        VPSDE().prior_sample((2, 2), seeds=[1])
    first = VPSDE().prior_sample((2, 2), seeds=[10**30, 7])
    assert torch.equal(first[1:], VPSDE().prior_sample((1, 2), seeds=torch.tensor([7])))
    assert not torch.equal(first[:1], VPSDE().prior_sample((1, 2), seeds=[10**30 + 1]))


def test_an_example_whose_score_is_not_finite_leaves_the_others_alone() -> None:
    class Broken(Silent):
        def score(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.where(x > 0.9, math.nan, -x)

        denoise = score

    solution = get_solver("ddim", num_steps=3)(Broken(VPSDE()), X)
    alone = get_solver("ddim", num_steps=3)(Broken(VPSDE()), X[:1])
    assert solution.x.isfinite().all(1).tolist() == [True, False]
    torch.testing.assert_close(solution.x[:1], alone.x)
