"""The probability flow ODE against the textbook form solved by scipy; orders; what is called, and where."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE, DDPMLadder, NCSNLadder, SubVPSDE, ddpm_betas, geometric_sigmas
from score_sde.solvers import encode, get_solver
from score_sde.solvers.ode.integrator import ADAMS, METHODS, Integrator

FLOAT = torch.float64
SDES = [VPSDE(), SubVPSDE(), VESDE()]
ONE_STEP = ["euler", "midpoint", "heun2", "heun3", "rk4"]
ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}

# One of the methods has steps of each example's own, and no others.
PAIRS = [(method, each) for method in METHODS for each in (True, False) if each or method != "adaptive_adams"]


def mixture_of_dimension(sde, dimension: int) -> GaussianMixture:
    """Four Gaussians with full covariances; deviations along their axes lie between 0.05 and 0.7."""
    generator = torch.Generator().manual_seed(dimension)
    means = 0.7 * torch.randn(4, dimension, generator=generator, dtype=FLOAT)
    axes = torch.linalg.qr(torch.randn(4, dimension, dimension, generator=generator, dtype=FLOAT))[0]
    deviations = 0.05 * 14 ** torch.rand(4, dimension, generator=generator, dtype=FLOAT)
    covariances = axes @ torch.diag_embed(deviations**2) @ axes.mT
    return GaussianMixture(sde, torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=FLOAT), means, covariances)


def textbook_coefficients(sde, t: float) -> tuple[float, float]:
    """`f` and `g^2` as published (Song et al. 2021, equations 9, 11, 12)."""
    if isinstance(sde, VESDE):
        growth = math.log(sde.sigma_max / sde.sigma_min)
        return 0.0, 2 * (sde.sigma_min * math.exp(growth * t)) ** 2 * growth
    beta = sde.beta_min + t * (sde.beta_max - sde.beta_min)
    integral = sde.beta_min * t + t**2 * (sde.beta_max - sde.beta_min) / 2
    return -beta / 2, beta * (-math.expm1(-2 * integral) if isinstance(sde, SubVPSDE) else 1.0)


def textbook_solution(model, x: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """`dx/dt = f x - g^2/2 score`, solved for each example by scipy in `x` and `t`."""

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        x = torch.tensor(flat)[None]
        f, g_squared = textbook_coefficients(model.sde, t)
        return (f * x - g_squared / 2 * model.score(x, torch.tensor(t, dtype=FLOAT)))[0].numpy()

    scale = float(x.abs().max())
    ends = [
        solve_ivp(slope, (start, end), row.numpy(), method="DOP853", rtol=1e-9, atol=1e-10 * min(scale, 1.0)).y[:, -1]
        for row in x
    ]
    return torch.tensor(np.stack(ends))


@pytest.mark.parametrize("dimension", [2, 64])
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_samples_and_latents_are_those_of_the_textbook_form(sde, dimension):
    model = mixture_of_dimension(sde, dimension)
    x_T = sde.prior_sample((3, dimension), seeds=range(3), dtype=FLOAT)
    expected = textbook_solution(model, x_T, sde.T, sde.t_min)
    sample = get_solver("ode", denoise=False)(model, x_T).x
    assert (sample - expected).abs().max() < 1e-5
    denoised = get_solver("ode")(model, x_T).x
    assert (denoised - model.denoise(expected, torch.tensor(sde.t_min))).abs().max() < 1e-5
    # Relative to the noise at T, which is 50 for VE.
    assert (encode(model, expected).x - x_T).abs().max() < 1e-5 * sde.prior_std


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("method", ONE_STEP)
def test_orders_on_a_uniform_log_snr_grid(sde, method):
    model, t_min = mixture_of_dimension(sde, 2), 0.4 if sde.prior_std > 1 else 0.1
    x_T = sde.prior_sample((8, 2), seeds=range(8), dtype=FLOAT)
    exact = get_solver("ode", method="dopri8", rtol=1e-12, atol=1e-12, t_min=t_min, denoise=False)(model, x_T).x
    counts = np.array([64, 96, 144])
    errors = []
    for count in counts:
        solver = get_solver(
            "ode", method=method, num_steps=int(count), grid="uniform_log_snr", t_min=t_min, denoise=False
        )
        errors.append(float((solver(model, x_T).x - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(ORDERS[method], abs=0.3)


@pytest.mark.parametrize(("method", "per_example"), [pair for pair in PAIRS if pair[0] not in ONE_STEP])
def test_every_other_method_reaches_the_same_samples(method, per_example, mixture):
    sde = VPSDE()
    model, x_T = mixture.model(sde), sde.prior_sample((4, 2), seeds=range(4), dtype=FLOAT)
    exact = get_solver("ode", method="dopri8", rtol=1e-11, atol=1e-11, denoise=False)(model, x_T).x
    fixed = Integrator(method).takes_fixed_steps
    options = {"num_steps": 300} if fixed else {"rtol": 1e-6, "atol": 1e-6}
    expected_error = {"adaptive_heun": 1e-4, "fehlberg2": 1e-3, "explicit_adams": 2e-6, "fixed_adams": 2e-6}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Functional iteration")
        solver = get_solver("ode", method=method, per_example=per_example, denoise=False, **options)
        assert (solver(model, x_T).x - exact).abs().max() < expected_error.get(method, 2e-5)


@pytest.mark.parametrize(("method", "per_example"), PAIRS)
def test_calls_are_counted_and_stay_inside(method, per_example, mixture, counting):
    sde, t_min = SubVPSDE(), 0.01
    model = counting(mixture.model(sde))
    x_T = sde.prior_sample((5, 2), seeds=range(5), dtype=torch.float32)
    num_steps = 9 if Integrator(method).takes_fixed_steps else None
    solution = get_solver("ode", method=method, num_steps=num_steps, t_min=t_min, per_example=per_example)(model, x_T)
    assert solution.x.dtype == torch.float32
    assert solution.nfe == len(model.times)
    assert model.lies_inside(t_min)
    if method in ONE_STEP:
        calls_a_step = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}[method]
        assert solution.nfe == calls_a_step * 8 + 1


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_an_example_does_not_depend_on_its_batch_mates(method, mixture):
    sde = VESDE()
    model, x_T = mixture.model(sde), sde.prior_sample((64, 2), seeds=range(64), dtype=FLOAT)
    solver = get_solver("ode", method=method, rtol=1e-5, atol=1e-5, denoise=False)
    together = solver(model, x_T).x
    alone = torch.cat([solver(model, x_T[i : i + 1]).x for i in range(0, 64, 8)])
    assert torch.allclose(together[::8], alone, rtol=1e-12, atol=1e-12)
    latents = encode(model, together, rtol=1e-5, atol=1e-5).x
    assert torch.allclose(latents[:1], encode(model, together[:1], rtol=1e-5, atol=1e-5).x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", [{}, {"method": "rk4", "num_steps": 200}, {"per_example": False}], ids=str)
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_encoding_and_sampling_are_inverse(sde, options, mixture):
    model = mixture.model(sde)
    x = sde.perturb(mixture.sample(6), torch.zeros(6, 2, dtype=FLOAT), torch.tensor(0.2, dtype=FLOAT))
    latents = encode(model, x, t_min=0.2, **options)
    back = get_solver("ode", t_min=0.2, denoise=False, **options)(model, latents.x)
    assert (back.x - x).abs().max() < 1e-6
    assert latents.nfe > 0


def test_ladders_are_processes_too(mixture):
    """DDPM's ladder has VP's trajectories between the same log-SNRs: paths depend on the log-SNR alone."""
    # A VP process with more noise at its end, so that it reaches the ladder's last log-SNR.
    ladder, vp = DDPMLadder(ddpm_betas(1000)), VPSDE(beta_max=25.0)
    x_T = vp.prior_sample((4, 2), seeds=range(4), dtype=FLOAT)
    found = get_solver("ode", t_min=0.05, denoise=False)(mixture.model(ladder), x_T).x
    start, end = vp.time_at_log_snr(ladder.log_snr(torch.tensor([1.0, 0.05], dtype=FLOAT))).tolist()
    assert (found - textbook_solution(mixture.model(vp), x_T, start, end)).abs().max() < 1e-5
    ncsn = NCSNLadder(geometric_sigmas(1000))
    samples = [get_solver("ode", t_min=0.3, denoise=False)(mixture.model(sde), 50 * x_T).x for sde in (ncsn, VESDE())]
    assert (samples[0] - samples[1]).abs().max() < 1e-5


def test_images_are_flattened_and_given_back(mixture):
    sde = VPSDE()
    model = mixture_of_dimension(sde, 64)
    x_T = sde.prior_sample((2, 1, 8, 8), seeds=range(2), dtype=FLOAT)
    image = get_solver("ode")(model, x_T).x
    assert torch.allclose(image.flatten(1), get_solver("ode")(model, x_T.flatten(1)).x, rtol=1e-12, atol=1e-12)
    assert image.shape == (2, 1, 8, 8)


class BrokenBelow:
    """A model whose score is not a number below some time."""

    def __init__(self, model, time: float) -> None:
        self.model, self.sde, self.time = model, model.sde, time

    def score(self, x, t):
        score = self.model.score(x, t)
        return torch.where((t < self.time).reshape(-1, *(1,) * (x.ndim - 1)), math.nan, score)


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_failing_steps_become_advice(per_example, method, mixture):
    sde = VPSDE()
    model, x_T = BrokenBelow(mixture.model(sde), 0.3), sde.prior_sample((4, 2), seeds=range(4), dtype=FLOAT)
    with pytest.raises(UserError, match=rf"'{method}'.* at t = 0\.\d+.*raise rtol=.*t_min=0.001.*float64"):
        get_solver("ode", method=method, per_example=per_example)(model, x_T)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="7 steps were not enough"):
        get_solver("ode", options={"max_num_steps": 7})(mixture.model(sde), x_T)
    with pytest.raises(UserError, match=r"not finite.*more steps"):
        get_solver("ode", method="euler", num_steps=10)(model, x_T)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dopri6"}, "no ODE method is called 'dopri6'.*dopri5"),
        ({"method": "rk4"}, "'rk4' takes fixed steps: give num_steps"),
        ({"method": "rk4", "num_steps": 0}, "num_steps must be at least 1"),
        ({"method": "explicit_adams", "num_steps": 9, "grid": "karras"}, "a grid of its own"),
        ({"num_steps": 9}, "'dopri5' chooses its steps: leave num_steps"),
        ({"rtol": 0.0}, "rtol must be positive"),
        ({"options": {"first_stop": 0.1}}, "no option 'first_stop' .did you mean 'first_step'"),
    ],
)
def test_mistakes_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        get_solver("ode", **options)


def test_adams_methods_keep_their_order(mixture):
    """Their coefficients are for equal steps, which they get: third order with three slopes."""
    sde = VPSDE()
    model, x_T = mixture.model(sde), sde.prior_sample((8, 2), seeds=range(8), dtype=FLOAT)
    exact = get_solver("ode", method="dopri8", rtol=1e-12, atol=1e-12, t_min=0.1, denoise=False)(model, x_T).x
    counts, errors = np.array([64, 96, 144]), []
    for count in counts:
        options = {"num_steps": int(count), "options": {"max_order": 4}, "t_min": 0.1, "denoise": False}
        x = get_solver("ode", method=ADAMS[0], **options)(model, x_T).x
        errors.append(float((x - exact).square().mean().sqrt()))
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(3, abs=0.3)
