"""The reverse SDE through torchsde: its coordinates, weak orders by exact moments, laws of samples, calls."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.stochastic.normalised_sde import NormalisedReverseSDE

FLOAT = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), RectifiedFlow()]


def name_of(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, SDE) else None


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_the_normalised_sde_is_the_reverse_family(sde, eta, mixture):
    """`u = k(t) x` and `lambda(t)` put into the reverse SDE by the chain rule, with numerical derivatives of both."""
    model, x, num_intervals = mixture.model(sde), mixture.sample(6), 10
    problem = NormalisedReverseSDE(model, x.shape, 0.01, num_intervals, eta)
    for step in torch.tensor([0.5, 4.0, 8.5], dtype=FLOAT):
        t = sde.time_at_log_snr(2 * (problem.start + step * problem.rate))

        def k(t):
            return (sde.alpha(t) ** 2 + sde.sigma(t) ** 2) ** -0.5

        slope_of_k = (k(t + 1e-6) - k(t - 1e-6)) / 2e-6
        steps_per_time = (sde.log_snr(t + 1e-6) - sde.log_snr(t - 1e-6)) / 4e-6 / problem.rate
        drift = k(t) * sde.reverse_drift(x, t, model.score(x, t), eta) + slope_of_k * x
        torch.testing.assert_close(problem.f(step, k(t) * x), drift / steps_per_time, rtol=1e-6, atol=1e-6)
        diffusion = k(t) * eta * sde.diffusion(t) / (-steps_per_time).sqrt()
        torch.testing.assert_close(problem.g_prod(step, x, x), diffusion * x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
@pytest.mark.parametrize(
    ("method", "eta", "order"),
    [("euler", 1.0, 1), ("milstein", 0.5, 1), ("milstein", 1.0, 1), ("srk", 1.0, 2), ("srk", 0.5, 2)],
)
def test_weak_order(sde, method, eta, order, gaussian, affine_moments):
    """Of strong order 1.5 for additive noise, `srk` is of weak order 2."""
    # At these variances no leading error coefficient happens to vanish.
    gaussian.variance[:] = torch.tensor([0.2, 0.5])
    mean, variance = gaussian.moments(sde, 0.05)
    errors = []
    for intervals in (64, 128):
        solver = get_solver("sde", method=method, eta=eta, num_steps=intervals + 1, t_min=0.05, denoise=False)
        new_mean, new_variance = affine_moments(solver, gaussian.model(sde), *gaussian.moments(sde, sde.T))
        errors.append(torch.cat([(new_mean - mean).abs(), (new_variance / variance - 1).abs()]))
    slopes = torch.log2(errors[0] / errors[1])
    torch.testing.assert_close(slopes, torch.full_like(slopes, order), rtol=0, atol=0.3)


@pytest.mark.usefixtures("one_generator")
@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
@pytest.mark.parametrize(("method", "eta"), [("euler", 1.0), ("milstein", 1.0), ("srk", 1.0), ("srk", 0.5)])
def test_samples_have_the_mixtures_mean_and_covariance(sde, method, eta, mixture):
    solver = get_solver("sde", method=method, eta=eta, num_steps=100)
    x = solver(mixture.model(sde), mixture.latents(sde, 3000), seeds=range(3000)).x
    assert mixture.largest_deviation(x) < 4.5


@pytest.mark.parametrize("method", ["euler", "srk"])
def test_adaptive_samples_have_the_mixtures_mean_and_covariance(method, mixture):
    sde = VPSDE()
    solver = get_solver("sde", method=method, num_steps=20, adaptive=True, rtol=0.05, atol=0.05)
    x = solver(mixture.model(sde), mixture.latents(sde, 100), seeds=range(100)).x
    assert mixture.largest_deviation(x) < 4.5


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
@pytest.mark.parametrize(
    ("options", "nfe"),
    [
        ({"method": "euler"}, 20),
        ({"method": "milstein"}, 20),
        ({"method": "srk"}, 39),
        ({"method": "srk", "denoise": False}, 38),
        ({"method": "srk", "adaptive": True}, None),
    ],
)
def test_nfe_is_the_number_of_calls_and_they_stay_inside(sde, options, nfe, mixture, counting):
    model = counting(mixture.model(sde))
    solver = get_solver("sde", num_steps=20, t_min=0.01, **options)
    solution = solver(model, mixture.latents(sde, 3).float(), seeds=range(3))
    assert solution.x.dtype == torch.float32
    assert solution.nfe == len(model.times)
    # From nothing but noise there is a call more.
    assert nfe is None or solution.nfe == nfe + sde.ends_in_noise
    assert model.lies_inside(0.01)


def test_without_noise_it_is_the_probability_flow(mixture):
    """`eta = 0` ends where the probability-flow ODE ends, to the method's second order."""
    sde = VPSDE()
    model, x_T = mixture.model(sde), mixture.latents(sde, 8)
    ends = [
        get_solver("sde", eta=0.0, num_steps=n + 1, t_min=0.01, denoise=False)(model, x_T).x for n in (50, 100, 400)
    ]
    coarse, fine = (float((end - ends[-1]).abs().max()) for end in ends[:2])
    assert fine < 2e-3
    assert coarse / fine > 3.3

    # The exact flow keeps a Gaussian's quantiles, which gives an end point without any solver.
    one = torch.tensor([[1.0]], dtype=FLOAT)
    gaussian = type(model)(sde, one[0], one, 0.25 * one[None])
    t, T = torch.tensor(0.01, dtype=FLOAT), torch.tensor(1.0, dtype=FLOAT)
    std = [(0.25 * sde.alpha(time) ** 2 + sde.sigma(time) ** 2).sqrt() for time in (t, T)]
    x_T = torch.tensor([[-1.0], [0.3], [2.0]], dtype=FLOAT)
    exact = sde.alpha(t) + std[0] / std[1] * (x_T - sde.alpha(T))
    x = get_solver("sde", eta=0.0, num_steps=200, t_min=0.01, denoise=False)(gaussian, x_T).x
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["euler", "srk"])
def test_a_sample_depends_on_its_own_seed_alone(method, mixture):
    sde = SubVPSDE()
    model, x_T = mixture.model(sde), mixture.latents(sde, 64)
    solver = get_solver("sde", method=method, num_steps=20)
    batch = solver(model, x_T, seeds=range(64)).x
    for i in (0, 31, 63):
        torch.testing.assert_close(solver(model, x_T[i : i + 1], seeds=[i]).x[0], batch[i], rtol=1e-10, atol=1e-10)
    assert torch.equal(batch, solver(model, x_T, seeds=range(64)).x)
    assert not torch.allclose(batch, solver(model, x_T, seeds=range(1, 65)).x)


def test_adaptive_steps_repeat_with_the_seeds(mixture):
    sde = VESDE()
    model, x_T = mixture.model(sde), mixture.latents(sde, 4)
    solver = get_solver("sde", adaptive=True, num_steps=20, rtol=0.05, atol=0.05)
    first = solver(model, x_T, seeds=range(4))
    assert torch.equal(first.x, solver(model, x_T, seeds=range(4)).x)
    tighter = get_solver("sde", adaptive=True, num_steps=20, rtol=0.01, atol=0.01)(model, x_T, seeds=range(4))
    assert tighter.nfe > first.nfe


class Broken:
    """A model whose score is not a number below t = 0.5."""

    def __init__(self, sde):
        self.sde = sde

    def score(self, x, t):
        return -x if float(t) > 0.5 else x * torch.nan


def test_failures_become_advice(mixture):
    x_T = torch.ones(2, 2, dtype=FLOAT)
    with pytest.raises(UserError, match=r"failed near t = 0\.\d+: .* raise t_min=0.001, or use fixed steps"):
        get_solver("sde", adaptive=True)(Broken(VPSDE()), x_T, seeds=[0, 1])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="loosen"):
        get_solver("sde", method="euler", adaptive=True, num_steps=10, rtol=1e-9, atol=1e-9)(
            mixture.model(VPSDE()), x_T, seeds=[0, 1]
        )
    with pytest.raises(UserError, match="no method of solver 'sde' is called 'heun'; there are: euler, milstein, srk"):
        get_solver("sde", method="heun")
    with pytest.raises(UserError, match=r"t_min must lie in \[0, 1\), not 2"):
        get_solver("sde", t_min=2.0)(mixture.model(VPSDE()), x_T)
    with pytest.raises(UserError, match="eta must be at least 0"):
        get_solver("sde", eta=-1.0)
