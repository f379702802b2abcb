"""Every score control with every solver family, and every state control with every solver of single steps.

A score control is compared with a model written down by hand from what is known of the mixture: means and covariances
of `x_0 | x_t` by Bayes' rule, and no automatic derivative. A state control is compared with the equation that the mean
of a Gaussian follows (see `control.projection`). Both under seeds, one an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.control import (
    DPS,
    MMPS,
    ClassifierGuidance,
    Controlled,
    Guided,
    LinearOperator,
    Masked,
    Observation,
    PiGDM,
    Projection,
    RePaint,
    noised,
)
from score_sde.models import GaussianMixture, Given, rows_of
from score_sde.models.noisy_classifier import ClassProbability
from score_sde.sde import SDE, VPSDE
from score_sde.sde.truncated import Truncated
from score_sde.solvers import Model, get_solver
from score_sde.solvers.fast.methods import adams
from score_sde.solvers.fast.recorder import Table, method_table
from score_sde.solvers.grids import time_grid
from tests.control.mixture import FLOAT, MIXTURE, Mixture

SEEDS = [3, 1, 4]
CLASSES = torch.tensor([0, 1, 2])
SCALE = 2.5
ROW = torch.tensor([0.8, -0.6], dtype=FLOAT)
Y = torch.tensor([[0.3], [-1.0], [0.9]], dtype=FLOAT)
NOISE_STD, DATA_STD = 0.5, 1.3
VP = VPSDE()


@dataclass
class ByHand:
    """A model from its denoised mean."""

    sde: SDE
    mean: Callable[[Tensor, Tensor], Tensor]

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        # Adaptive solvers have a time for each example.
        rows = [self.mean(row[None], time) for row, time in zip(x, t.expand(len(x)), strict=True)]
        return torch.cat(rows) if t.ndim else self.mean(x, t)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.sde.expand(self.sde.alpha(t), x), self.sde.expand(self.sde.sigma(t), x)
        return (alpha * self.denoise(x, t) - x) / sigma**2


@dataclass
class Classes:
    """The mixture as a model that knows its components."""

    sde: SDE

    def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        return self._each("score", x, t, condition)

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        return self._each("denoise", x, t, condition)

    def _each(self, name: str, x: Tensor, t: Tensor, condition: Condition | None) -> Tensor:
        if condition is None:
            return getattr(MIXTURE.model(self.sde), name)(x, t)
        by_class = torch.stack([getattr(MIXTURE.component(self.sde, k), name)(x, t) for k in range(3)])
        return by_class[condition.values["class"], torch.arange(len(x))]


class Classifier:
    """`log p_t(k | x)`, exactly."""

    def log_probs(self, x: Tensor, t: Tensor) -> Tensor:
        joint = torch.stack([MIXTURE.component(VP, k).log_prob(x, t) + MIXTURE.weights[k].log() for k in range(3)], 1)
        return torch.log_softmax(joint, 1)


GIVEN = Given(Classes(VP), Condition({"class": CLASSES}))
PROBABILITY = ClassProbability(Classifier(), CLASSES)  # type: ignore[arg-type]


def component_mean(x: Tensor, t: Tensor, k: int) -> Tensor:
    """`E[x_0 | x_t = x, k]`."""
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    mean, covariance = MIXTURE.means[k], MIXTURE.covariances[k]
    total = alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=FLOAT)
    return mean + alpha * (x - alpha * mean) @ torch.linalg.solve(total, covariance)


def guided_mean(x: Tensor, t: Tensor, k: int, scale: float) -> Tensor:
    plain = MIXTURE.denoising_moments(VP, x, t)[0]
    return plain + scale * (component_mean(x, t, k) - plain)


def posterior_mean(x: Tensor, t: Tensor, y: Tensor, variance: float, mixture: Mixture = MIXTURE) -> Tensor:
    """`D + (sigma^2 / alpha) J^T a (y - a D) / variance`, where `J = (alpha / sigma^2) Cov[x_0 | x_t]`."""
    mean, covariance = mixture.denoising_moments(VP, x, t)
    return mean + (covariance @ ROW) * (y - mean @ ROW)[:, None] / variance


def moment_matched_mean(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The same, where the variance of `y` given `x_t` is `s^2 + a Cov[x_0 | x_t] a^T`."""
    mean, covariance = MIXTURE.denoising_moments(VP, x, t)
    along = covariance @ ROW
    return mean + along * ((y - mean @ ROW) / (NOISE_STD**2 + along @ ROW))[:, None]


def spread(t: Tensor) -> float:
    alpha, sigma = float(VP.alpha(t)), float(VP.sigma(t))
    return (DATA_STD * sigma) ** 2 / ((DATA_STD * alpha) ** 2 + sigma**2)


OBSERVATION = Observation(LinearOperator(lambda x: x @ ROW[:, None]), Y, NOISE_STD)


@dataclass
class Case:
    """A case holds a control of all rows, and for each row the model written by hand."""

    control: Model
    by_hand: Callable[[int], Model]


def by_hand(mean: Callable[..., Tensor], *values: Any) -> Callable[[int], Model]:
    """Return the model of row `i`, whose mean is also given the i-th of `values`."""
    return lambda i: ByHand(VP, lambda x, t: mean(x, t, *(value[i] for value in values)))


def inside(t: Tensor) -> bool:
    return 0.3 <= float(VP.sigma(t) / VP.alpha(t)) <= 3.0


SCORE_CONTROLS: dict[str, Case] = {
    "classifier guidance": Case(
        ClassifierGuidance(MIXTURE.model(VP), PROBABILITY, SCALE),
        by_hand(lambda x, t, k: guided_mean(x, t, int(k), SCALE), CLASSES),
    ),
    "classifier-free guidance": Case(
        Guided(GIVEN, Classes(VP), SCALE),
        by_hand(lambda x, t, k: guided_mean(x, t, int(k), SCALE), CLASSES),
    ),
    "on an interval": Case(
        Guided(GIVEN, Classes(VP), SCALE, (0.3, 3.0)),
        by_hand(lambda x, t, k: guided_mean(x, t, int(k), SCALE if inside(t) else 1.0), CLASSES),
    ),
    "DPS": Case(
        DPS(MIXTURE.model(VP), OBSERVATION),
        by_hand(lambda x, t, y: posterior_mean(x, t, y, NOISE_STD**2), Y),
    ),
    "PiGDM": Case(
        PiGDM(MIXTURE.model(VP), OBSERVATION, data_std=DATA_STD),
        by_hand(lambda x, t, y: posterior_mean(x, t, y, NOISE_STD**2 + spread(t) * float(ROW @ ROW)), Y),
    ),
    "MMPS": Case(MMPS(MIXTURE.model(VP), OBSERVATION), by_hand(moment_matched_mean, Y)),
    "PiGDM of classifier-free guidance": Case(
        PiGDM(Guided(GIVEN, Classes(VP)), OBSERVATION, data_std=DATA_STD),
        by_hand(lambda x, t, y, k: posterior_mean(x, t, y, NOISE_STD**2 + spread(t), MIXTURE.only(int(k))), Y, CLASSES),
    ),
    "from an earlier time": Case(
        noised(MIXTURE.model(VP), torch.zeros(1, 2, dtype=FLOAT), 0.6, seeds=[0])[0],
        lambda i: MIXTURE.model(Truncated(VP, 0.6)),
    ),
}

FAMILIES: dict[str, dict[str, Any]] = {
    "default": {"num_steps": 12},
    "tuned": {},
    "ddim": {"num_steps": 12, "eta": 1.0},
    "deis": {"num_steps": 12},
    "dpmpp_2m": {"num_steps": 12},
    "dpmpp_2m_sde": {"num_steps": 12},
    "unipc": {"num_steps": 12},
    "heun": {"num_steps": 12, "s_churn": 3.0},
    "dpm_2": {"num_steps": 12},
    "pc": {"num_steps": 30},
    "sde": {"num_steps": 20},
    "adaptive_sde": {"rtol": 0.1, "atol": 0.05},
    "ode": {"rtol": 1e-6, "atol": 1e-6},
    "ode rk4": {"method": "rk4", "num_steps": 20},
    "ode adams": {"method": "adams", "num_steps": 20},
}


def tuned_table(sde: SDE) -> Table:
    """Return a table for solver `tuned`; these tests need no good one."""
    return method_table(adams, sde, time_grid(sde, "uniform_log_snr", 12), prediction="data", order=2)


def solve(name: str, options: dict[str, Any], model: Model, seeds: list[int], x_T: Tensor) -> Tensor:
    if name == "tuned":
        options = {"table": tuned_table(model.sde)}
    return get_solver(name.split()[0], **options)(model, x_T, seeds=seeds).x


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("control", SCORE_CONTROLS)
def test_score_controls(control, family):
    case, options = SCORE_CONTROLS[control], FAMILIES[family]
    x_T = VP.prior_sample((len(SEEDS), 2), seeds=SEEDS, dtype=FLOAT)
    together = solve(family, options, case.control, SEEDS, x_T)
    # An error of 1e-6 in an adaptive solver's tolerance may end in another step.
    tolerance = 1e-7 if family != "ode" else 1e-5
    for i, seed in enumerate(SEEDS):
        expected = solve(family, options, case.by_hand(i), [seed], x_T[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], expected, rtol=0, atol=tolerance)
    alone = solve(family, options, rows_of(case.control, slice(1, 2)), SEEDS[1:2], x_T[1:2])
    torch.testing.assert_close(alone, together[1:2], rtol=0, atol=tolerance)


def test_a_table_starts_where_it_was_made_to():
    until, x = noised(MIXTURE.model(VP), torch.zeros(1, 2, dtype=FLOAT), 0.6, seeds=[0])
    with pytest.raises(UserError, match="this table starts at t = 1, not at 0"):
        get_solver("tuned", table=tuned_table(VP))(until, x)


# Of single steps; the amount of noise, which decides where the mean goes.
SINGLE_STEPS: dict[str, tuple[dict[str, Any], float]] = {
    "ddim": ({}, 0.0),
    "ddim noisy": ({"eta": 1.0}, 1.0),
    "euler": ({}, 0.0),
    "heun": ({}, 0.0),
    "flow_heun": ({}, 0.0),
    "dpm_1": ({}, 0.0),
    "dpm_2": ({}, 0.0),
    "dpm_3": ({}, 0.0),
    "dpm_1_sde": ({}, 1.0),
    "dpmpp_1": ({}, 0.0),
    "dpmpp_2s": ({}, 0.0),
    "dpmpp_1_sde": ({}, 1.0),
    "dpmpp_2s_sde": ({}, 1.0),
    "pc": ({"corrector": "none"}, 1.0),
    "sde": ({}, 1.0),
    "sde euler": ({"method": "euler"}, 1.0),
    "ode euler": ({"method": "euler"}, 0.0),
    "ode midpoint": ({"method": "midpoint"}, 0.0),
    "ode heun2": ({"method": "heun2"}, 0.0),
    "ode heun3": ({"method": "heun3"}, 0.0),
    "ode rk4": ({"method": "rk4"}, 0.0),
}
CORRELATION, OBSERVED, NUM_STEPS = 0.8, 1.5, 200


def correlated() -> GaussianMixture:
    covariance = torch.tensor([[[1.0, CORRELATION], [CORRELATION, 1.0]]], dtype=FLOAT)
    return GaussianMixture(VP, torch.ones(1), torch.zeros(1, 2, dtype=FLOAT), covariance)


def mean_of_the_rest(eta: float, repeats: int) -> float:
    """Return where `dm/dt = f m - n (1 + eta^2)/2 g^2 s(m, alpha y)` ends, with the Gaussian's `s` by hand."""

    def slope(t: float, mean: list[float]) -> list[float]:
        time = torch.tensor(t, dtype=FLOAT)
        f, g_squared, alpha = (
            float(v) for v in (VP.drift_coefficient(time), VP.diffusion_squared(time), VP.alpha(time))
        )
        # Of variance 1 at all times, and correlation alpha^2 c.
        c = alpha**2 * CORRELATION
        score = -(mean[0] - c * alpha * OBSERVED) / (1 - c**2)
        return [f * mean[0] - repeats * (1 + eta**2) / 2 * g_squared * score]

    # What is left, from t_min to 0, is denoised.
    solution = solve_ivp(slope, (VP.T, VP.t_min), [0.0], rtol=1e-9, atol=1e-11)
    return float(solution.y[0, -1])


@pytest.mark.parametrize("name", SINGLE_STEPS)
@pytest.mark.parametrize("repeats", [1, 3])
def test_state_controls(name, repeats, monkeypatch):
    """With short steps: without noise the state is its mean; with noise, pixels are kept, and samples their own."""
    options, eta = SINGLE_STEPS[name]
    solver = get_solver(name.split()[0], num_steps=NUM_STEPS, **options)
    mask, y = Masked(torch.tensor([False, True])), torch.tensor([[0.0, OBSERVED]], dtype=FLOAT)
    control = Projection(mask, y) if repeats == 1 else RePaint(mask, y, repeats=repeats)
    x_T = torch.zeros(1, 2, dtype=FLOAT)
    with monkeypatch.context() as patch:
        patch.setattr(SampleNoise, "normal", lambda self, like: torch.zeros_like(like))
        solution = Controlled(solver, control)(correlated(), x_T, seeds=[0])
    assert solution.nfe == repeats * solver(correlated(), x_T, seeds=[0]).nfe
    assert float(solution.x[0, 1]) == OBSERVED
    assert float(solution.x[0, 0]) == pytest.approx(mean_of_the_rest(eta, repeats), abs=0.012)

    few = Controlled(get_solver(name.split()[0], num_steps=10, **options), control)
    x_T = VP.prior_sample((3, 2), seeds=SEEDS, dtype=FLOAT)
    together = few(correlated(), x_T, seeds=SEEDS).x
    assert bool((together[:, 1] == OBSERVED).all())
    alone = few(correlated(), x_T[1:2], seeds=SEEDS[1:2]).x
    torch.testing.assert_close(alone, together[1:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SINGLE_STEPS)
def test_solvers_are_the_sum_of_their_steps(name):
    options, _ = SINGLE_STEPS[name]
    x_T = VP.prior_sample((len(SEEDS), 2), seeds=SEEDS, dtype=FLOAT)
    for more in ({}, {"denoise": False}):
        solver: Any = get_solver(name.split()[0], num_steps=7, **options, **more)
        whole = solver(MIXTURE.model(VP), x_T, seeds=SEEDS)
        steps = solver.steps(MIXTURE.model(VP), x_T, seeds=SEEDS)
        parts = steps.run(x_T)
        torch.testing.assert_close(parts.x, whole.x, rtol=0, atol=1e-12)
        assert parts.nfe == whole.nfe
        last = 0.0 if not more else float(VP.sigma(torch.tensor(VP.t_min, dtype=FLOAT)))
        assert float(steps.ends.sigma[-1]) == pytest.approx(last, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("default", {"num_steps": 5}),
        ("tuned", {"table": tuned_table(VP)}),
        ("deis", {"num_steps": 5}),
        ("dpmpp_2m", {"num_steps": 5}),
        ("dpmpp_3m", {"num_steps": 5}),
        ("dpmpp_2m_sde", {"num_steps": 5}),
        ("unipc", {"num_steps": 5}),
        ("ode", {}),
        ("ode", {"method": "adams", "num_steps": 5}),
        ("ode", {"method": "explicit_adams", "num_steps": 5}),
        ("sde", {"adaptive": True}),
        ("adaptive_sde", {}),
    ],
)
def test_other_solvers_are_refused(name, options):
    control = Projection(Masked(torch.tensor([False, True])), torch.zeros(1, 2, dtype=FLOAT))
    with pytest.raises(UserError, match="states can") as error:
        Controlled(get_solver(name, **options), control)(correlated(), torch.zeros(1, 2, dtype=FLOAT), seeds=[0])
    assert "\n" not in str(error.value)
