"""Log-probabilities of steps against hand-written recursions, quadrature, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from score_sde import control
from score_sde.common.errors import UserError
from score_sde.common.gaussian import gaussian_of, isotropic
from score_sde.models import GaussianMixture, ScoreModel
from score_sde.sde import VESDE, VPSDE
from score_sde.solvers import Model, get_solver, sample_path, step_log_prob
from score_sde.solvers.fast.default import recommended
from score_sde.solvers.grids import time_grid
from score_sde.solvers.standard_normal import StandardNormal
from tests.solvers.stochastic.by_hand import Chain, Data, Process, log_normal

FLOAT = torch.float64
SDES = {"vp": VPSDE(), "ve": VESDE(sigma_max=5.0)}
GRID = [1.0, 0.7, 0.5, 0.3, 0.2, 0.1]
MEAN, COVARIANCE = np.array([0.5, -0.3]), np.array([[0.4, 0.15], [0.15, 0.2]])
SEEDS = range(7)


class Plain:
    """A model that says no more than a solver must know, or also what Gaussian its data are taken for."""

    def __init__(self, model: Model, gaussian: Any = None) -> None:
        self.sde, self.score, self.denoise, self.gaussian = model.sde, model.score, model.denoise, gaussian


def gaussian_data(sde, gaussian: Any = None) -> Plain:
    mean, covariance = torch.from_numpy(MEAN), torch.from_numpy(COVARIANCE)
    return Plain(GaussianMixture(sde, torch.ones(1), mean[None], covariance[None]), gaussian)


Conditionals = Callable[[Chain], Iterator[tuple[np.ndarray, float]]]
CASES: dict[str, tuple[str, dict[str, Any], Conditionals]] = {
    **{
        kind: ("pc", {"predictor": kind, "corrector": "none"}, partial(Chain.predictor, kind=kind))
        for kind in ("euler_maruyama", "reverse_diffusion", "ancestral")
    },
    **{
        f"{kind} {corrector}": (
            "pc",
            {"predictor": kind, "corrector": corrector, "snr": 0.3, "corrector_steps": 2},
            partial(Chain.predictor_corrector, kind=kind, corrector=corrector, snr=0.3, repeats=2),
        )
        for kind, corrector in (("ancestral", "langevin"), ("none", "ald"))
    },
    **{
        method: ("sde", {"method": method, "num_steps": 6, "eta": 0.8}, lambda c: c.reverse_sde(0.8))
        for method in ("euler", "milstein")
    },
    **{f"ddim {eta}": ("ddim", {"eta": eta}, partial(Chain.ddim, eta=eta)) for eta in (0.5, 1.0)},
    "dpm_1_sde": ("dpm_1_sde", {}, lambda c: c.noise_prediction(1)),
    "dpm_2m_sde": ("dpm_2m_sde", {}, lambda c: c.noise_prediction(2)),
    "dpmpp_1_sde": ("dpmpp_1_sde", {}, lambda c: c.dpmpp_2m(1.0, order=1)),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {}, lambda c: c.dpmpp_2m(1.0)),
    "dpmpp_3m_sde": ("dpmpp_3m_sde", {}, lambda c: c.dpmpp_3m()),
    "dpmpp_2s_sde": ("dpmpp_2s_sde", {}, lambda c: c.dpmpp_2s(1.0)),
    "euler with churn": ("euler", {"s_churn": 2.0}, lambda c: c.edm(2.0, second_order=False)),
    "heun with churn": ("heun", {"s_churn": 2.0}, lambda c: c.edm(2.0, second_order=True)),
    "default": (
        "default",
        {"eta": 1.0, "order": 2},
        lambda c: c.residual(np.zeros(2), np.eye(2), np.full(2, 0.5), 10, 1 / 50, 1.0, free=False),
    ),
}


@pytest.mark.parametrize("process", SDES)
@pytest.mark.parametrize("name", CASES)
def test_on_gaussians_they_are_those_written_by_hand(name: str, process: str) -> None:
    """Steps go as the papers say, from the states of the path; sampling is the solver's own."""
    solver_name, options, conditionals = CASES[name]
    grid = {} if solver_name == "sde" else {"grid": GRID}
    solver, model = get_solver(solver_name, **grid, **options), gaussian_data(SDES[process])
    x_T = model.sde.prior_sample((7, 2), seeds=SEEDS, dtype=FLOAT)
    path = sample_path(solver, model, x_T, seeds=SEEDS)
    solution = solver(model, x_T, seeds=SEEDS)
    torch.testing.assert_close(path.x, solution.x, rtol=0, atol=0 if solver_name != "sde" else 1e-12)
    assert path.nfe == solution.nfe
    times = path.times.numpy() if solver_name == "sde" else np.array(GRID)
    check(
        solver, model, path, conditionals(Chain(Process(process), Data(MEAN, COVARIANCE), path.states.numpy(), times))
    )


@pytest.mark.parametrize("process", SDES)
@pytest.mark.parametrize("free", [False, True])
def test_noise_along_the_axes_of_a_gaussian_has_its_density_in_our_own(process: str, free: bool) -> None:
    """Data are taken for another Gaussian than they are, whose axes are turned."""
    covariance, mean = np.array([[0.5, -0.2], [-0.2, 0.3]]), np.array([0.2, 0.1])
    scales, axes = np.linalg.eigh(covariance)
    gaussian = gaussian_of(torch.from_numpy(mean), torch.from_numpy(covariance))._replace(
        bases=(torch.from_numpy(axes),)
    )
    solver = get_solver("default", grid=GRID, eta=0.7, order=2, free=free)
    model = gaussian_data(SDES[process], gaussian)
    x_T = model.sde.prior_sample((7, 2), seeds=SEEDS, dtype=FLOAT)
    path = sample_path(solver, model, x_T, seeds=SEEDS)
    assert torch.equal(path.x, solver(model, x_T, seeds=SEEDS).x)
    chain = Chain(Process(process), Data(MEAN, COVARIANCE), path.states.numpy(), np.array(GRID))
    check(solver, model, path, chain.residual(mean, axes, np.sqrt(scales), 1.5, 1 / 32, 0.7, free))


def check(solver, model: Model, path, conditionals: Iterator[tuple[np.ndarray, float]]) -> None:
    by_hand = list(conditionals)
    found = step_log_prob(solver, model, path.states, path.times)
    assert path.log_prob.shape == found.log_prob.shape == (7, len(by_hand))
    for k, (mean, std) in enumerate(by_hand):
        torch.testing.assert_close(found.mean[k].numpy(), mean, rtol=0, atol=1e-12)
        assert float(found.std[k]) == pytest.approx(float(std), rel=1e-11)
        expected = log_normal(path.states[k + 1].numpy(), mean, std)
        torch.testing.assert_close(found.log_prob[:, k].numpy(), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(path.log_prob[:, k].numpy(), expected, rtol=0, atol=1e-10)


def test_tuned_tables_with_learned_noise() -> None:
    """The table's own numbers, summed as its definition says."""
    generator = torch.Generator().manual_seed(0)
    sde, gaussian = VPSDE(), gaussian_of(torch.tensor([0.2, 0.1]), torch.tensor([[0.5, -0.2], [-0.2, 0.3]]))
    model = gaussian_data(sde)
    start = recommended(5).table(sde, gaussian)
    told = start.times * (1 - 0.02 * torch.rand(len(start.times), generator=generator, dtype=FLOAT))
    changed = start.outputs + 0.02 * torch.randn(start.outputs.shape, generator=generator, dtype=FLOAT)
    solver = get_solver("tuned", table=start._replace(told=told, outputs=changed), eta=[0.0, 0.4, 1.0, 0.8, 0.3, 0.0])
    table = solver.table(sde)  # type: ignore[attr-defined]
    x_T = sde.prior_sample((7, 2), seeds=SEEDS, dtype=FLOAT)
    path = sample_path(solver, model, x_T, seeds=SEEDS)
    assert torch.equal(path.x, solver(model, x_T, seeds=SEEDS).x)

    process, data = Process("vp"), Data(MEAN, COVARIANCE)
    axes, mean, which = gaussian.bases[0].numpy(), gaussian.mean.numpy(), gaussian.which.numpy()
    state, outputs, blend = (v.numpy()[..., which] for v in (table.state, table.outputs, table.blend))
    t, noise, told_a = table.times.numpy(), table.noise.numpy(), process.alpha(told.numpy())
    a, told_s, known = process.alpha(t), process.sigma(told.numpy()), iter(path.states[1:].numpy())

    def conditionals() -> Iterator[tuple[np.ndarray, float]]:
        u, F = (path.states[0].numpy() - a[0] * mean) @ axes, []
        for k in range(len(t) - 1):
            asked = 0 * u if k == 0 else u
            y = (asked / a[k]) @ axes.T + mean
            F.append(data.eps(y, told_s[k] / told_a[k]) @ axes + blend[k] * asked)
            u = state[k] * u + sum(outputs[k, j] * F[k - j] for j in range(min(k + 1, outputs.shape[1])))
            if noise[k]:
                yield u @ axes.T + a[k + 1] * mean, noise[k]
                u = (next(known) - a[k + 1] * mean) @ axes

    assert table.free
    assert int((table.noise > 0).sum()) == 4
    check(solver, model, path, conditionals())


def test_jumps_of_a_flow_map() -> None:
    sde, solver = VPSDE(), get_solver("consistency", grid=[1.0, 0.6, 0.2], renoise=True)
    model, x_T = StandardNormal(sde), sde.prior_sample((7, 2), seeds=SEEDS, dtype=FLOAT)
    path = sample_path(solver, model, x_T, seeds=SEEDS)
    assert torch.equal(path.x, solver(model, x_T, seeds=SEEDS).x)
    process, t = Process("vp"), np.array([0.6, 0.2])
    # For N(0, I) under VP, the flow stands still.
    means = [a * x for a, x in zip(process.alpha(t), path.states.numpy(), strict=False)]
    check(solver, model, path, zip(means, process.sigma(t), strict=True))


def mixture(dimension: int, sde) -> GaussianMixture:
    means = torch.tensor([[-0.8, 0.3], [0.6, -0.2]], dtype=FLOAT)[:, :dimension]
    covariances = torch.stack([0.05 * torch.eye(dimension), 0.1 * torch.eye(dimension)]).double()
    return GaussianMixture(sde, torch.tensor([0.35, 0.65]), means, covariances)


def importance_sampled(solver, model: Model, x: Tensor, times: list[float], count: int) -> tuple[Tensor, Tensor]:
    """`p(x) = E_q[p(x_T) prod p(x_{k+1} | …) / q(path | x)]` with the forward process for `q`; and standard errors."""
    sde, rows = model.sde, x.repeat_interleave(count, dim=0)
    states, log_q = [rows], torch.zeros(len(rows), dtype=FLOAT)
    generator = torch.Generator().manual_seed(3)
    t = torch.tensor(times, dtype=FLOAT)
    for k in range(len(times) - 1, 0, -1):
        scale, variance = sde.transition(t[k], t[k - 1])
        z = torch.randn(rows.shape, generator=generator, dtype=FLOAT)
        states.append(scale * states[-1] + variance.sqrt() * z)
        log_q += (-0.5 * z**2 - 0.5 * torch.log(2 * math.pi * variance)).sum(1)
    weight = sde.prior_log_prob(states[-1]) - log_q
    weight = (weight + step_log_prob(solver, model, torch.stack(states[::-1]), t).log_prob.sum(1)).exp()
    weight = weight.reshape(len(x), count)
    return weight.mean(1), weight.std(1) / math.sqrt(count)


# Where a predictor's noise is not that of the forward process, steps are short, or the weights are wild.
SHORT = time_grid(VPSDE(), "uniform_log_snr", 20, 0.1).tolist()
TIMES = [1.0, 0.75, 0.55, 0.4, 0.28, 0.18, 0.1]


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize(
    ("name", "options", "times"), [("ddim", {"eta": 1.0}, TIMES), ("pc", {"corrector": "none"}, SHORT)]
)
def test_their_sum_gives_the_marginal(name: str, options: dict[str, Any], times: list[float], dimension: int) -> None:
    """Quadrature propagates the density of the discretised chain through its kernels, written by hand, on a grid."""
    sde = VPSDE()
    model, solver = mixture(dimension, sde), get_solver(name, grid=times, denoise=False, **options)
    axis = torch.linspace(-5.5, 5.5, 301 if dimension == 1 else 111, dtype=FLOAT)
    points = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
    cell = float(axis[1] - axis[0]) ** dimension
    x = torch.tensor([[-0.9, 0.2], [-0.1, 0.1], [0.7, -0.3]], dtype=FLOAT)[:, :dimension]
    process, density = Process("vp"), sde.prior_log_prob(points).exp()
    for s, e in pairwise(times):
        (a_s, a_e), (s_s, s_e) = (f(np.array([s, e])).tolist() for f in (process.alpha, process.sigma))
        denoised = model.denoise(points, torch.tensor(s, dtype=FLOAT))
        v = s_s**2 - (a_s / a_e * s_e) ** 2
        if name == "ddim":
            # q(x_e | x_s, x_0) with the denoised mean for x_0.
            mean = a_s / a_e * (s_e / s_s) ** 2 * points + a_e * v / s_s**2 * denoised
            std = math.sqrt(v) * s_e / s_s
        else:
            mean = (2 - a_s / a_e) * points + v * (a_s * denoised - points) / s_s**2
            std = math.sqrt(v)
        ends = x if e == times[-1] else points
        if e == times[-1] or dimension == 1:
            density = density @ (torch.cdist(mean, ends).div(std).square().mul(-0.5).exp()) * cell
        else:
            # The kernel is a product over coordinates.
            first, second = (((mean[:, i, None] - axis) / std).square().mul(-0.5).exp() for i in (0, 1))
            density = (first.T @ (density[:, None] * second)).flatten() * cell
        density = density / (std * math.sqrt(2 * math.pi)) ** dimension
    found, error = importance_sampled(solver, model, x, times, 4000)
    assert float((error / density).max()) < 0.04
    assert float(((found - density) / error).abs().max()) < 3


def test_their_sum_gives_the_marginal_of_a_multistep_method(affine_moments) -> None:
    """On Gaussian data that is a Gaussian, with moments that the solver's linearity gives."""
    sde, solver = VPSDE(), get_solver("dpmpp_2m_sde", grid=TIMES, denoise=False)
    variance = torch.tensor([0.3, 0.1], dtype=FLOAT)
    model = Plain(GaussianMixture(sde, torch.ones(1), torch.from_numpy(MEAN)[None], torch.diag(variance)[None]))
    mean, variance = affine_moments(solver, model, torch.zeros(2, dtype=FLOAT), torch.ones(2, dtype=FLOAT))
    x = torch.tensor([[0.5, -0.3], [0.1, 0.4]], dtype=FLOAT)
    density = torch.distributions.Normal(mean, variance.sqrt()).log_prob(x).sum(1).exp()
    found, error = importance_sampled(solver, model, x, TIMES, 4000)
    assert float((error / density).max()) < 0.04
    assert float(((found - density) / error).abs().max()) < 3


class Network(nn.Module):
    """A small network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        label = noise_label.to(x).reshape(-1, 1).expand(len(x), 1)
        return self.layers(torch.cat([x, label], dim=1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddim", {"eta": 1.0}),
        ("dpmpp_3m_sde", {}),
        ("default", {"eta": 1.0}),
        ("pc", {}),
        ("sde", {"method": "euler", "num_steps": 6}),
    ],
)
def test_gradients_by_parameters_and_states_agree_with_finite_differences(name: str, options: dict[str, Any]) -> None:
    """A path of one model, seen by another."""
    sde = VPSDE()
    model, solver = ScoreModel(Network(), sde), get_solver(name, **({} if name == "sde" else {"grid": GRID}), **options)
    model.gaussian = gaussian_of(torch.tensor([0.2, 0.1]), torch.tensor([[0.5, -0.2], [-0.2, 0.3]]))
    x_T = sde.prior_sample((3, 2), seeds=range(3), dtype=FLOAT)
    path = sample_path(solver, gaussian_data(sde, model.gaussian), x_T, seeds=range(3))
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(path.log_prob.shape, generator=generator, dtype=FLOAT)

    def value(states: Tensor) -> Tensor:
        return (weights * step_log_prob(solver, model, states, path.times).log_prob).sum()

    states = path.states.clone().requires_grad_()
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(value(states), [states, *parameters])
    for tensor, gradient in zip([states, *parameters], gradients, strict=True):
        direction = torch.randn(tensor.shape, generator=generator, dtype=FLOAT)
        # The difference is of order 4.
        scale = float(gradient.norm() * direction.norm())
        step, ends = 1e-4 * direction, []
        with torch.no_grad():
            for change in (2, -1, -2, -1):
                tensor += change * step
                ends.append(float(value(states)))
            tensor += 2 * step
        difference = (8 * (ends[1] - ends[2]) - (ends[0] - ends[3])) / 12e-4
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-7, abs=1e-7 * scale)


def test_the_sum_of_log_ratios_reweights_paths_to_another_model() -> None:
    """Under paths of one model, the mean of ratios is 1, and weighted states have the other's mean."""
    sde, solver = VPSDE(), get_solver("ddim", grid=TIMES, eta=1.0)
    ours, theirs = mixture(1, sde), GaussianMixture(sde, torch.ones(1), torch.zeros(1, 1), 0.5 * torch.eye(1)[None])
    seeds = range(4000)
    x_T = sde.prior_sample((4000, 1), seeds=seeds, dtype=FLOAT)
    path, other = sample_path(solver, theirs, x_T, seeds=seeds), sample_path(solver, ours, x_T, seeds=seeds)
    ratio = (step_log_prob(solver, ours, path.states, path.times).log_prob - path.log_prob).sum(1).exp()
    difference = ratio * path.states[-1, :, 0] - other.states[-1, :, 0]
    for value, expected in ((ratio, 1.0), (difference, 0.0)):
        assert abs(float(value.mean()) - expected) < 3 * float(value.std()) / math.sqrt(4000)


def test_float32_states_have_densities_in_double_precision() -> None:
    sde, solver = VPSDE(), get_solver("ddim", grid=GRID, eta=1.0)
    path = sample_path(solver, gaussian_data(sde), sde.prior_sample((7, 2), seeds=SEEDS), seeds=SEEDS)
    assert path.states.dtype == torch.float32
    exact = step_log_prob(solver, gaussian_data(sde), path.states.double(), path.times)
    torch.testing.assert_close(path.log_prob, exact.log_prob, rtol=0, atol=1e-5)


REFUSED = {
    "the table of this solver has no noise": get_solver("dpmpp_2m", num_steps=5),
    "solver 'ode' adds no noise": get_solver("ode"),
    "solver 'adaptive_sde' has steps that are no Gaussians": get_solver("adaptive_sde"),
    "solver 'sde' by srk has steps that are no Gaussians": get_solver("sde"),
    "solver 'sde' with adaptive steps has none that are Gaussian": get_solver("sde", adaptive=True, method="euler"),
    "solver 'sde' adds no noise here": get_solver("sde", eta=0.0, method="euler"),
    "published step size has steps that are no Gaussians": get_solver("pc", step_size="published"),
    "solver 'pc' adds no noise here": get_solver("pc", predictor="none", corrector="none"),
    "solver 'consistency' adds no noise here": get_solver("consistency"),
    "state control has no density": control.Controlled(
        get_solver("ddim", num_steps=4, eta=1.0),
        control.Projection(control.Masked(torch.tensor([True, False])), torch.zeros(1, 2)),
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_gaussian_is_refused_in_one_line(reason: str) -> None:
    model = gaussian_data(VPSDE())
    x_T = model.sde.prior_sample((7, 2), seeds=SEEDS, dtype=FLOAT)
    path = sample_path(get_solver("ddim", grid=GRID, eta=1.0), model, x_T, seeds=SEEDS)
    for call in (
        lambda: sample_path(REFUSED[reason], model, x_T, seeds=SEEDS),
        lambda: step_log_prob(REFUSED[reason], model, path.states, path.times),
    ):
        with pytest.raises(UserError, match=reason) as refusal:
            call()
        assert "\n" not in str(refusal.value)


def test_a_path_of_another_solver_is_refused_and_the_beginning_of_one_is_not() -> None:
    model, solver = gaussian_data(VPSDE(), isotropic(0.5)), get_solver("ddim", grid=GRID, eta=1.0)
    path = sample_path(solver, model, model.sde.prior_sample((7, 2), seeds=SEEDS, dtype=FLOAT), seeds=SEEDS)
    with pytest.raises(UserError, match=r"state 1 of this path is at t = 0\.7, where this solver steps to t = 0\.6"):
        step_log_prob(get_solver("ddim", grid=[1.0, 0.6, 0.1], eta=1.0), model, path.states, path.times)
    with pytest.raises(UserError, match="this path has 5 steps with noise, of which this solver takes 2"):
        step_log_prob(get_solver("ddim", grid=GRID[:3], eta=1.0), model, path.states, path.times)
    begun = step_log_prob(solver, model, path.states[:3], path.times[:3])
    assert torch.equal(begun.log_prob, path.log_prob[:, :2])
    # Another amount of noise at the same times is another policy.
    other = get_solver("ddim", grid=GRID, eta=0.5)
    by_hand = Chain(Process("vp"), Data(MEAN, COVARIANCE), path.states.numpy(), np.array(GRID)).ddim(0.5)
    expected = [log_normal(x, *step) for x, step in zip(path.states[1:].numpy(), by_hand, strict=True)]
    torch.testing.assert_close(
        step_log_prob(other, model, path.states, path.times).log_prob,
        torch.from_numpy(np.stack(expected, 1)),
        rtol=0,
        atol=1e-10,
    )
