"""Adaptive steps for the reverse SDE: the step's weak order, tolerances, laws of samples, independence, failures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE
from score_sde.solvers import Solution, get_solver
from score_sde.solvers.base import sample_noise
from score_sde.solvers.stochastic.adaptive_sde import improved_euler
from score_sde.solvers.stochastic.brownian_path import BrownianPath

FLOAT = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), RectifiedFlow()]
STOP: dict[type[SDE], float] = {VPSDE: 0.3, SubVPSDE: 0.3, VESDE: 0.5, RectifiedFlow: 0.5}


def name_of(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, SDE) else None


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
def test_the_steps_have_weak_orders_one_and_two(sde, gaussian, affine_moments):
    t_min = STOP[type(sde)]
    # Where f has no bound, at alpha(T) = 0, no step of these is short.
    start = 0.9 if sde.ends_in_noise else sde.T
    _, variance = gaussian.moments(sde, t_min)

    def fixed_steps(which: int, intervals: int):
        def solve(model, x, *, seeds):
            noise = sample_noise(x, seeds, None)
            times = torch.linspace(start, t_min, intervals + 1, dtype=FLOAT)
            for t, s in pairwise(times):
                increment = (t - s).sqrt() * noise.normal(x)
                x = improved_euler(model, x, t.expand(len(x)), s.expand(len(x)), increment)[which]
            return Solution(x, 0)

        return solve

    for which, order in [(0, 1), (1, 2)]:
        errors = []
        for intervals in (64, 128):
            solver = fixed_steps(which, intervals)
            _, new_variance = affine_moments(solver, gaussian.model(sde), *gaussian.moments(sde, start))
            errors.append((new_variance / variance - 1).abs())
        slopes = torch.log2(errors[0] / errors[1])
        torch.testing.assert_close(slopes, torch.full_like(slopes, order), rtol=0, atol=0.3)


def test_without_noise_the_error_follows_the_tolerance(mixture, monkeypatch):
    """With all increments zero it integrates `dx = [f x - g^2 score] dt`, which SciPy can do independently."""
    monkeypatch.setattr(SampleNoise, "normal", lambda self, like: torch.zeros_like(like))
    sde = VPSDE()
    model, x_T = mixture.model(sde), mixture.latents(sde, 4)

    def drift(t, x):
        state, time = torch.tensor(x).reshape(4, 2), torch.tensor(t, dtype=FLOAT)
        return sde.reverse_drift(state, time, model.score(state, time), eta=1.0).flatten().numpy()

    exact = solve_ivp(drift, (1.0, 0.01), x_T.flatten().numpy(), rtol=1e-10, atol=1e-12).y[:, -1].reshape(4, 2)
    errors, calls = [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        solver = get_solver("adaptive_sde", rtol=tolerance, atol=tolerance, t_min=0.01, denoise=False)
        solution = solver(model, x_T, seeds=range(4))
        errors.append(np.abs(solution.x.numpy() - exact).max())
        calls.append(solution.nfe)
    assert calls[0] < calls[1] < calls[2]
    assert all(error < 10 * tolerance for error, tolerance in zip(errors, (1e-2, 1e-3, 1e-4), strict=True))
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


@pytest.mark.usefixtures("one_generator")
@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
def test_samples_have_the_mixtures_mean_and_covariance(sde, mixture):
    x = get_solver("adaptive_sde", rtol=0.05)(mixture.model(sde), mixture.latents(sde, 2000), seeds=range(2000)).x
    assert mixture.largest_deviation(x) < 4.5


@pytest.mark.usefixtures("one_generator")
@pytest.mark.parametrize("redraw", [False, True])
def test_rejections_do_not_bias_samples(redraw, gaussian, monkeypatch):
    """The variance of a one-dimensional Gaussian, where steps are rejected for their noise; new noise inflates it."""
    if redraw:
        accept = BrownianPath.accept
        monkeypatch.setattr(BrownianPath, "accept", lambda self, accepted: accept(self, torch.ones_like(accepted)))
    sde, count = VPSDE(), 5000
    gaussian.mean, gaussian.variance = torch.zeros(1, dtype=FLOAT), torch.full((1,), 0.25, dtype=FLOAT)
    noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(5), dtype=FLOAT)
    x_T = gaussian.moments(sde, sde.T)[1].sqrt() * noise
    solver = get_solver("adaptive_sde", rtol=0.02, atol=0.02, t_min=0.05, denoise=False)
    variance = solver(gaussian.model(sde), x_T, seeds=range(count)).x.var()
    ratio = float(variance / gaussian.moments(sde, 0.05)[1])
    assert ratio > 1.4 if redraw else abs(ratio - 1) < 4.5 * (2 / count) ** 0.5


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
def test_a_sample_depends_on_its_own_seed_alone(sde, mixture):
    model, x_T = mixture.model(sde), mixture.latents(sde, 64)
    solver = get_solver("adaptive_sde", rtol=0.1, atol=0.05)
    batch = solver(model, x_T, seeds=range(64))
    calls = []
    for i in (0, 20, 63):
        alone = solver(model, x_T[i : i + 1], seeds=[i])
        torch.testing.assert_close(alone.x[0], batch.x[i], rtol=1e-8, atol=1e-8)
        calls.append(alone.nfe)
    # Each has its own steps; the batch waits for the slowest.
    assert len(set(calls)) > 1
    assert batch.nfe >= max(calls)
    assert torch.equal(batch.x, solver(model, x_T, seeds=range(64)).x)
    assert not torch.allclose(batch.x, solver(model, x_T, seeds=range(1, 65)).x)


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
@pytest.mark.parametrize("denoise", [True, False])
def test_nfe_is_the_number_of_calls_and_they_stay_inside(sde, denoise, mixture, counting):
    model = counting(mixture.model(sde))
    solver = get_solver("adaptive_sde", rtol=0.1, atol=0.05, denoise=denoise, t_min=0.01)
    x_T = mixture.latents(sde, 6).float().reshape(6, 2, 1, 1)
    solution = solver(model, x_T, seeds=range(6))
    assert solution.x.dtype == torch.float32
    assert solution.x.shape == x_T.shape
    assert solution.nfe == len(model.times)
    # From nothing but noise there is a call more.
    assert solution.nfe % 2 == (denoise + sde.ends_in_noise) % 2
    assert model.lies_inside(0.01)


class Broken:
    """A model whose score is not a number below t = 0.5."""

    def __init__(self, sde):
        self.sde = sde

    def score(self, x, t):
        return torch.where(t[:, None] > 0.5, -x, torch.nan)


def test_failures_become_advice(mixture):
    x_T = torch.ones(2, 2, dtype=FLOAT)
    with pytest.raises(UserError, match=r"of example \d failed at t = 0\.5\d+ \(error nan.* loosen rtol=0.01 or atol"):
        get_solver("adaptive_sde")(Broken(VPSDE()), x_T, seeds=[0, 1])  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"raise t_min=0\.001"):
        get_solver("adaptive_sde", rtol=1e-17, atol=1e-17)(mixture.model(VPSDE()), x_T, seeds=[0, 1])
    for option in ("rtol", "atol", "first_step"):
        with pytest.raises(UserError, match=f"{option} must be positive, not 0"):
            get_solver("adaptive_sde", **{option: 0.0})
