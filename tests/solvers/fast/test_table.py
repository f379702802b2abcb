"""What holds for every solver of the fast family: its calls and their times, dtypes, independence of the batch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE, DDPMLadder, SubVPSDE, ddpm_betas
from score_sde.solvers import get_solver
from score_sde.solvers.fast.named import FAST_SOLVERS
from score_sde.solvers.fast.table import run_steps, steps_of
from score_sde.solvers.fast.thresholding import dynamic_threshold, static_threshold

DOUBLE = torch.float64
NAMES = sorted(set(FAST_SOLVERS) - {"tuned"})
CALLS_A_STEP = {"heun": 2, "flow_heun": 2, "dpm_2": 2, "dpm_3": 3, "dpmpp_2s": 2, "dpmpp_2s_sde": 2}
OPTIONS: dict[str, dict[str, float]] = {"heun": {"s_churn": 5.0}, "euler": {"s_churn": 5.0}, "ddim": {"eta": 0.7}}


class Watched:
    """A model that notes when it is asked."""

    def __init__(self, model: GaussianMixture) -> None:
        self.sde, self._model = model.sde, model
        self.times: list[float] = []

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t))
        return self._model.score(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t))
        return self._model.denoise(x, t)


class Linear:
    """A model without schedules of its own."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return -x * (1 + t.to(x))

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) * t.to(x)


def two_modes(sde: SDE) -> GaussianMixture:
    means = torch.tensor([[0.5, 0.2], [-0.5, 0.1]], dtype=DOUBLE)
    return GaussianMixture(sde, torch.ones(2), means, 0.04 * torch.eye(2, dtype=DOUBLE).repeat(2, 1, 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE(0.01, 50.0), DDPMLadder(ddpm_betas(100))])
@pytest.mark.parametrize("num_steps", [2, 7, 40])
def test_calls_are_counted_and_inside_the_process(name: str, sde: SDE, num_steps: int) -> None:
    model = Watched(two_modes(sde))
    x_T = sde.prior_sample((2, 2), seeds=range(2))
    solution = get_solver(name, num_steps=num_steps, **OPTIONS.get(name, {}))(model, x_T, seeds=range(2))
    assert solution.nfe == len(model.times) == CALLS_A_STEP.get(name, 1) * (num_steps - 1) + 1
    assert all(sde.t_min <= t <= sde.T for t in model.times)
    assert solution.x.dtype == torch.float32
    assert num_steps < 40 or float(solution.x.abs().max()) < 5


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_neighbours(name: str) -> None:
    model = two_modes(VPSDE())
    x_T = model.sde.prior_sample((5, 2), seeds=range(5), dtype=DOUBLE)
    solver = get_solver(name, num_steps=6, **OPTIONS.get(name, {}))
    alone = torch.cat([solver(model, x_T[i : i + 1], seeds=[i]).x for i in range(5)])
    assert torch.allclose(solver(model, x_T, seeds=range(5)).x, alone, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("_sde")])
def test_stochastic_solvers_give_the_mixture(name: str) -> None:
    """Mean and covariance of 2,000 samples, within four standard errors (and the bias of 60 steps)."""
    model = two_modes(VESDE(0.01, 50.0))
    x_T = model.sde.prior_sample((2000, 2), seeds=range(2000), dtype=DOUBLE)
    x = get_solver(name, num_steps=60)(model, x_T, seeds=range(2000)).x
    bias = 0.02 if name in ("dpm_1_sde", "dpmpp_1_sde") else 0.005
    assert torch.allclose(x.mean(0), torch.tensor([0.0, 0.15], dtype=DOUBLE), atol=4 * 0.54 / 2000**0.5 + bias)
    covariance = torch.tensor([[0.29, 0.025], [0.025, 0.0425]], dtype=DOUBLE)
    assert torch.allclose(x.T.cov(), covariance, atol=4 * 0.29 / 2000**0.5 + bias)


def test_churn_leaves_the_distribution() -> None:
    model = two_modes(VESDE(0.01, 50.0))
    x_T = model.sde.prior_sample((2000, 2), seeds=range(2000), dtype=DOUBLE)
    plain = get_solver("heun", num_steps=40)(model, x_T).x
    churned = get_solver("heun", num_steps=40, s_churn=10.0)(model, x_T, seeds=range(2000)).x
    assert float((plain - churned).norm(dim=1).median()) > 0.1
    assert torch.allclose(plain.T.cov(), churned.T.cov(), atol=0.03)


def one_gaussian(sde: SDE) -> GaussianMixture:
    """Return a Gaussian of three numbers, none of which is independent of the others, and whose scales differ."""
    mixing = torch.tensor([[2.0, 0.3, -0.2], [0.1, 0.5, 0.2], [0.0, -0.1, 0.05]], dtype=DOUBLE)
    mean = torch.tensor([[0.5, -1.0, 2.0]], dtype=DOUBLE)
    return GaussianMixture(sde, torch.ones(1), mean, (mixing @ mixing.T)[None])


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE(0.01, 50.0)])
@pytest.mark.parametrize("num_steps", [1, 3, 20])
@pytest.mark.parametrize("free", [True, False])
def test_the_default_is_exact_on_gaussians(sde: SDE, num_steps: int, free: bool) -> None:
    """Along the axes, `x - alpha m` is multiplied by `c / sqrt(alpha^2 c^2 + sigma^2)`."""
    model = one_gaussian(sde)
    x_T = sde.prior_sample((8, 3), seeds=range(8), dtype=DOUBLE)
    at_T = sde.at(sde.T)
    axes = model.gaussian.bases[0]
    factor = model.gaussian.scales / torch.sqrt((at_T.alpha * model.gaussian.scales) ** 2 + at_T.sigma**2)
    mean = model.means[0]
    exact = mean + ((x_T - at_T.alpha * mean) @ axes * factor) @ axes.T
    solution = get_solver("default", num_steps=num_steps, free=free)(model, x_T)
    torch.testing.assert_close(solution.x, exact, rtol=0, atol=1e-9)
    assert solution.nfe == num_steps


def test_the_state_of_a_free_step_has_the_answer_of_the_gaussian() -> None:
    """Which is the model's, where the data are Gaussian; the states begin with `x_T` itself."""
    model = one_gaussian(VPSDE())
    x_T = model.sde.prior_sample((3, 3), seeds=range(3), dtype=DOUBLE)
    states = get_solver("default", num_steps=4)(model, x_T, trajectory=True).trajectory
    assert len(states) == 6
    assert states[0].x is x_T
    for state in states[:-1]:
        assert state.denoised is not None
        torch.testing.assert_close(state.denoised, model.denoise(state.x, state.t), rtol=0, atol=1e-9)


def test_a_batch_of_one_pays_for_its_first_step() -> None:
    """What the model answers to the mean is asked on one example, which is a call like the others for one alone."""
    model = Watched(one_gaussian(VPSDE()))
    model.gaussian = model._model.gaussian  # type: ignore[attr-defined]
    x_T = model.sde.prior_sample((3, 3), seeds=range(3), dtype=DOUBLE)
    solver = get_solver("default", num_steps=5)
    whole = solver(model, x_T)
    assert (whole.nfe, len(model.times)) == (5, 6)
    one = solver(model, x_T[:1])
    assert (one.nfe, len(model.times)) == (6, 12)
    torch.testing.assert_close(one.x, whole.x[:1], rtol=0, atol=1e-12)


def test_many_steps_do_not_stand_still() -> None:
    """Errors go on falling where the model is asked only down to `t_min`, so that the last of many steps is many times
    as long as the others; the truth is that of a process that goes on."""
    model, longer = (two_modes(VPSDE(t_min=t_min)) for t_min in (1e-3, 1e-7))
    x_T = model.sde.prior_sample((64, 2), seeds=range(64), dtype=DOUBLE)
    exact = get_solver("default", num_steps=2000)(longer, x_T).x
    errors = [
        float((get_solver("default", num_steps=count)(model, x_T).x - exact).norm(dim=1).median())
        for count in (25, 50, 100, 200, 400)
    ]
    assert errors[0] < 1e-4
    for coarse, fine in pairwise(errors):
        assert fine < coarse / 7, errors


def test_the_loop_compiles_whole() -> None:
    model = two_modes(VPSDE())
    solver = get_solver("dpmpp_2m", num_steps=5)
    steps = steps_of(solver.table(model.sde), model.sde)  # type: ignore[attr-defined]
    x_T = model.sde.prior_sample((4, 2), seeds=range(4))
    compiled = torch.compile(run_steps, backend="eager", fullgraph=True)
    assert torch.equal(
        compiled(steps, "data", Linear(model.sde), x_T), run_steps(steps, "data", Linear(model.sde), x_T)
    )


def test_thresholds() -> None:
    data = torch.tensor([[0.5, -3.0, 1.0, 2.0], [0.1, 0.2, 0.3, -0.4]])
    assert torch.equal(static_threshold()(data)[0], torch.tensor([0.5, -1.0, 1.0, 1.0]))
    dynamic = dynamic_threshold(quantile=1.0)(data)
    assert torch.allclose(dynamic, torch.stack([data[0] / 3, data[1]]))
    # The same for data in [0, 1].
    half = 0.5 + data / 2
    assert torch.allclose(static_threshold(0.0, 1.0)(half), 0.5 + static_threshold()(data) / 2)
    assert torch.allclose(dynamic_threshold(0.0, 1.0, quantile=1.0)(half), 0.5 + dynamic / 2)


@pytest.mark.parametrize("name", ["default", "dpmpp_2m", "deis", "heun"])
def test_a_threshold_bounds_the_samples(name: str) -> None:
    model = two_modes(VPSDE())
    x_T = model.sde.prior_sample((64, 2), seeds=range(64), dtype=DOUBLE)
    solver = get_solver(name, num_steps=10, threshold=static_threshold(-0.3, 0.3))
    free, bounded = get_solver(name, num_steps=10)(model, x_T).x, solver(model, x_T).x
    assert float(free.abs().max()) > 0.5
    assert float(bounded.abs().max()) <= (0.3 + 1e-12 if name != "default" else 0.35)


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("dpmpp_2m", {"num_steps": 5, "grid": "unifrom"}, "unifrom"),
        ("dpmpp_2m", {"num_steps": 1, "denoise": False}, "at least 2"),
        ("default", {"num_steps": 0}, "at least 1"),
        ("unipc", {"num_steps": 5, "variant": "bh3"}, "bh3"),
        ("deis", {"num_steps": 5, "variable": "sigma"}, "sigma"),
        ("deis", {"num_steps": 5, "order": 0}, "order"),
        ("unipc", {"num_steps": 5, "order": 0}, "order"),
        ("default", {"num_steps": 5, "order": 0}, "order"),
        ("default", {"num_steps": 5, "data_std": 0.0}, "data_std must be positive"),
        ("default", {"num_steps": 5, "t_min": 1.0}, "t_min must lie in"),
        ("ddim", {"num_steps": 5, "t_min": 0.0}, "log-SNR of VPSDE at t_min = 0 is not finite"),
        ("ddim", {"num_steps": 5, "eta": 5.0}, "coefficients are not finite"),
        ("ddim", {"num_steps": 5, "eta": 1.0, "seeds": [0, 1]}, "2 seeds for a batch of 1"),
    ],
)
def test_bad_input_says_so(name: str, options: dict[str, Any], word: str) -> None:
    model = two_modes(VPSDE())
    seeds = options.pop("seeds", None)
    with pytest.raises(UserError, match=word):
        get_solver(name, **options)(model, torch.zeros(1, 2), seeds=seeds)
