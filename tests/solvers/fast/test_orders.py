"""Orders of convergence: deterministic ones on a mixture, stochastic ones by exact moments on one Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.fast.default import Warp, recommended
from score_sde.solvers.fast.table import Table
from score_sde.solvers.grids import time_grid
from tests.noise_ends import CosineSDE

DOUBLE = torch.float64
PROCESSES = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(0.01, 50.0),
    "flow": RectifiedFlow(),
    "cosine": CosineSDE(),
}
# Half the log-SNR at which these solves stop, away from the end.
END = 0.7


def stop(sde: SDE) -> float:
    return float(sde.time_at_log_snr(torch.tensor(2 * END, dtype=DOUBLE)))


def mixture(sde: SDE) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(4, 3, generator=generator, dtype=DOUBLE)
    factors = 0.3 * torch.randn(4, 3, 3, generator=generator, dtype=DOUBLE)
    covariances = factors @ factors.mT + 0.05 * torch.eye(3, dtype=DOUBLE)
    return GaussianMixture(sde, torch.tensor([1.0, 2.0, 1.0, 1.0]), means, covariances)


@pytest.fixture(scope="module", params=list(PROCESSES))
def problem(request: pytest.FixtureRequest) -> tuple[GaussianMixture, Tensor, Tensor]:
    """Return a mixture, latents, and where the ODE takes them, by a solver of order 4 with short steps."""
    model = mixture(PROCESSES[request.param])
    x_T = model.sde.prior_sample((8, 3), seeds=range(8), dtype=DOUBLE)
    exact = get_solver("unipc", order=3, num_steps=800, t_min=stop(model.sde), denoise=False)(model, x_T).x
    return model, x_T, exact


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ddim", {}, 1),
        ("euler", {"grid": "uniform_log_snr"}, 1),
        ("heun", {"grid": "uniform_log_snr"}, 2),
        ("flow_heun", {}, 2),
        ("dpm_1", {}, 1),
        ("dpm_2", {}, 2),
        ("dpm_3", {}, 3),
        ("deis", {"order": 1}, 1),
        ("deis", {"order": 2}, 2),
        ("deis", {"order": 3}, 3),
        ("deis", {"order": 3, "variable": "rho"}, 3),
        ("ipndm", {"order": 1, "grid": "uniform_log_snr"}, 1),
        ("ipndm", {"order": 2, "grid": "uniform_log_snr"}, 2),
        ("ipndm", {"order": 3, "grid": "uniform_log_snr"}, 2),
        ("dpmpp_1", {}, 1),
        ("dpmpp_2s", {}, 2),
        ("dpmpp_2m", {}, 2),
        ("dpmpp_3m", {}, 3),
        ("dpmpp_3m_published", {}, 2),
        ("unipc", {"order": 1}, 2),
        ("unipc", {"order": 2}, 3),
        ("unipc", {"order": 3}, 4),
        ("default", {"order": 3}, 3),
    ],
)
def test_order(
    problem: tuple[GaussianMixture, Tensor, Tensor], name: str, options: dict[str, object], order: int
) -> None:
    model, x_T, exact = problem
    errors = []
    # The third-derivative term of the published 3M fades slowly beside the second; where a process ends in noise, it
    # has to do so before the 1e-6 of the first step shows.
    many = (200, 400) if model.sde.ends_in_noise else (300, 600)
    for num_steps in many if name == "dpmpp_3m_published" else (100, 200):
        times = {} if name != "default" else {"grid": default_times(model.sde, num_steps)}
        solver = get_solver(name, num_steps=num_steps, t_min=stop(model.sde), denoise=False, **{**options, **times})
        errors.append(float((solver(model, x_T).x - exact).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def test_improved_pndm_on_equal_steps_in_rho() -> None:
    """It is Adams–Bashforth there; the first, low-order steps do not count where the output hardly changes."""
    model = mixture(VESDE(0.01, 6.0))
    sde, start, last = model.sde, 6.0, 0.5
    x_T = sde.prior_sample((8, 3), seeds=range(8), dtype=DOUBLE)

    def samples(order: int, num_steps: int) -> Tensor:
        times = sde.time_at_log_snr(-2 * torch.linspace(start, last, num_steps + 1, dtype=DOUBLE).log())
        times[0] = sde.T
        return get_solver("ipndm", order=order, grid=times, denoise=False)(model, x_T).x

    t_min = float(sde.time_at_log_snr(torch.tensor(last, dtype=DOUBLE).log() * -2))
    exact = get_solver("unipc", num_steps=400, t_min=t_min, denoise=False)(model, x_T).x
    for order in (1, 2, 3, 4):
        coarse, fine = (float((samples(order, num_steps) - exact).norm()) for num_steps in (80, 160))
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_improved_pndm_is_its_loop(order: int) -> None:
    model = mixture(VPSDE())
    x = model.sde.prior_sample((4, 3), seeds=range(4), dtype=DOUBLE)
    solution = get_solver("ipndm", num_steps=8, order=order)(model, x)
    times = time_grid(model.sde, "karras", 8)
    alpha, sigma = model.sde.alpha(times), model.sde.sigma(times)
    weights: list[list[float]] = [[1], [1.5, -0.5], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    y, eps = x / alpha[0], []
    for k in range(7):
        eps.append(-sigma[k] * model.score(alpha[k] * y, times[k]))
        used = weights[min(order, k + 1) - 1]
        step = sigma[k + 1] / alpha[k + 1] - sigma[k] / alpha[k]
        y = y + step * sum(w * eps[k - j] for j, w in enumerate(used))
    torch.testing.assert_close(solution.x, model.denoise(alpha[7] * y, times[7]), rtol=1e-11, atol=1e-11)
    assert solution.nfe == 8


def default_times(sde: SDE, num_steps: int) -> Tensor:
    """Return times uniform in log-SNR, without the end, to which the default solver steps by itself."""
    start = 0.5 * float(sde.log_snr(torch.tensor(sde.t_max, dtype=DOUBLE)))
    lam = torch.linspace(start, END, num_steps + 1, dtype=DOUBLE)[:-1]
    times = sde.time_at_log_snr(2 * lam)
    times[0] = sde.T
    return times


@pytest.mark.parametrize(("name", "order"), [("deis", 4), ("deis", 5), ("default", 4)])
def test_high_orders_of_adams_bashforth(name: str, order: int) -> None:
    """Once a process starts where its output hardly changes, so that the first, low-order steps do not count."""
    model = mixture(VPSDE())
    x_T = model.sde.prior_sample((8, 3), seeds=range(8), dtype=DOUBLE)

    def samples(num_steps: int) -> Tensor:
        times = {} if name != "default" else {"grid": default_times(model.sde, num_steps)}
        options = {"order": order, "t_min": stop(model.sde), "denoise": False}
        return get_solver(name, num_steps=num_steps, **options, **times)(model, x_T).x

    coarse, fine, finest = map(samples, (50, 100, 400))
    slope = math.log2(float((coarse - finest).norm() / (fine - finest).norm()))
    assert slope > order - 0.3


def test_the_default_has_order_three_or_where_steps_are_many_four() -> None:
    model = mixture(VPSDE())
    x_T = model.sde.prior_sample((8, 3), seeds=range(8), dtype=DOUBLE)
    for num_steps, order in ((15, 3), (16, 4)):
        explicit = get_solver("default", num_steps=num_steps, order=order)(model, x_T).x
        assert torch.equal(get_solver("default", num_steps=num_steps)(model, x_T).x, explicit)


def test_below_six_calls_the_default_lies_between_line_and_parabola() -> None:
    model = mixture(VPSDE())
    for num_steps in (2, 4, 5):
        line, parabola, table = (
            recommended(num_steps, order=order).table(model.sde, model.gaussian).outputs for order in (2, 3, None)
        )
        share, line = num_steps / 6, torch.nn.functional.pad(line, (0, 0, 0, 1))
        torch.testing.assert_close(table, share * parabola + (1 - share) * line, rtol=0, atol=1e-12)


def test_polynomials_of_the_default_go_through_zeros_before_the_first_time() -> None:
    """A residual whose `q F` is a parabola in `v` that is zero one and two steps before `T` is integrated exactly."""
    model = mixture(VPSDE())
    table = recommended(4, order=3).table(model.sde, model.gaussian)
    c, nodes = model.gaussian.scales, model.sde.at(table.times)
    variable = Warp(1.5 * float(c.max()), float(c.max()) / 32)
    first, step = variable(nodes.rho[0]), variable(nodes.rho[1]) - variable(nodes.rho[0])

    def residual(rho: Tensor) -> Tensor:
        place = (variable(rho) - first) / step
        return ((place + 1) * (place + 2))[..., None] / torch.sqrt(rho[..., None] ** 2 + c**2)

    rho = torch.linspace(float(nodes.rho[0]), float(nodes.rho[1]), 200_001, dtype=DOUBLE)
    end = torch.sqrt(rho[-1] ** 2 + c**2)
    exact = nodes.alpha[1] * end * torch.trapezoid(residual(rho) / torch.sqrt(rho[:, None] ** 2 + c**2), rho, dim=0)
    # The first step is so long that quadrature is good to 1e-4.
    torch.testing.assert_close(table.outputs[0, 0] * residual(nodes.rho[0]), exact, rtol=5e-4, atol=0)


def moments(table: Table, sde: SDE, mean: float, std: float) -> tuple[float, float]:
    """Mean and variance of a table's samples where the data are `N(mean, std^2)`, by recursion on its own affine maps.

    State and past outputs are affine in `x_T` and the noises, whose coefficients are followed exactly.
    """
    count = len(table.times)
    # At alpha(T) = 0 as the table has it, whose outputs are tiny there and have large weights.
    here = sde.at(table.times)
    alpha, sigma = here.alpha, here.sigma
    variance = alpha**2 * std**2 + sigma**2
    # Components: constant, x_T, then one noise a step.
    x = torch.zeros(2 + count, dtype=DOUBLE)
    x[1] = 1.0
    constant = torch.zeros(2 + count, dtype=DOUBLE)
    constant[0] = 1.0
    outputs = torch.zeros(count, 2 + count, dtype=DOUBLE)
    for k in range(count):
        data = mean * constant + alpha[k] * std**2 * (x - alpha[k] * mean * constant) / variance[k]
        if table.prediction == "data":
            outputs[k] = data
        elif bool(here.gone[k]):
            outputs[k] = -alpha[k] / sigma[k] * data
        else:
            outputs[k] = (x - alpha[k] * data) / sigma[k] + table.blend[k] * x
        x = table.state[k] * x + sum(w * outputs[k - age] for age, w in enumerate(table.outputs[k][: k + 1]))
        x[2 + k] = x[2 + k] + table.noise[k]
    start = torch.tensor(sde.T, dtype=DOUBLE)
    latent_mean = sde.alpha(start) * mean
    latent_variance = sde.alpha(start) ** 2 * std**2 + sde.sigma(start) ** 2
    return float(x[0] + x[1] * latent_mean), float(x[1] ** 2 * latent_variance + x[2:].square().sum())


@pytest.mark.parametrize("process", list(PROCESSES))
@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ddim", {"eta": 1.0}, 1),
        ("ddim", {"eta": 0.5}, 1),
        ("dpm_1_sde", {}, 1),
        ("dpm_2m_sde", {}, 2),
        ("dpmpp_1_sde", {}, 1),
        ("dpmpp_2m_sde", {}, 2),
        ("dpmpp_3m_sde", {}, 2),
        ("dpmpp_2s_sde", {}, 2),
    ],
)
def test_weak_order(process: str, name: str, options: dict[str, object], order: int) -> None:
    """Mean and variance together converge with the weak order."""
    sde = PROCESSES[process]
    end = torch.tensor(stop(sde), dtype=DOUBLE)
    truth = float(sde.alpha(end)) * 0.7, float(sde.alpha(end) ** 2 * 0.4**2 + sde.sigma(end) ** 2)
    errors = []
    numbers = {"dpmpp_3m_sde": (401, 801)}.get(name, (101, 201) if order == 1 else (201, 401))
    if name == "dpm_2m_sde" and sde.ends_in_noise:
        # Its third-order term is as large as the second until then.
        numbers = (801, 1601)
    for num_steps in numbers:
        table = get_solver(name, num_steps=num_steps, t_min=float(end), denoise=False, **options).table(sde)  # type: ignore[attr-defined]
        mean, variance = moments(table, sde, 0.7, 0.4)
        errors.append(math.hypot(mean - truth[0], variance - truth[1]))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)
