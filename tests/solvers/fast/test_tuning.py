"""Tuning: better than its start on noise it has not seen, kept in a file, and never worse."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.fast.axes import InAxes
from score_sde.solvers.fast.default import noisy_step, recommended, rule_for
from score_sde.solvers.fast.learned_table import LearnedTable, bands_of, run
from score_sde.solvers.fast.table import integrate
from score_sde.solvers.fast.trajectories import equal_shares, follow
from score_sde.solvers.fast.tuned import _ARRAYS, load_tables, save_tables, with_noise
from score_sde.solvers.fast.tuning import accurate_solution, tune

DOUBLE = torch.float64


@pytest.fixture(scope="module", name="model")
def ring() -> GaussianMixture:
    angle = torch.arange(6, dtype=DOUBLE) * 2 * math.pi / 6
    means = 0.7 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return GaussianMixture(
        VESDE(0.002, 80.0), torch.ones(6), means, 0.05**2 * torch.eye(2, dtype=DOUBLE).repeat(6, 1, 1)
    )


class Unknowing:
    """This model does not know its Gaussian."""

    def __init__(self, model: GaussianMixture) -> None:
        self.sde: SDE = model.sde
        self.score, self.denoise = model.score, model.denoise


def ends(model: GaussianMixture, x_T: Tensor) -> Tensor:
    """Return the ends of trajectories from `x_T`, accurately."""
    exact = follow(model, x_T, model.gaussian, 200)
    return InAxes(model, model.gaussian, x_T).turned_back(exact.end, 1.0)


def test_trajectories_end_where_the_model_of_less_noise_says(model: GaussianMixture) -> None:
    """The end at `sigma = 0` is the limit of the denoised means at ever smaller times; between nodes, states are those
    of a solution that has more of them."""
    x_T = model.sde.prior_sample((64, 2), seeds=range(64), dtype=DOUBLE)
    narrower = GaussianMixture(
        VESDE(1e-5, 80.0), torch.ones(6), model.means, 0.05**2 * torch.eye(2, dtype=DOUBLE).repeat(6, 1, 1)
    )
    exact = accurate_solution(narrower, x_T, 800)
    # A few trajectories pass close to where they part.
    assert (ends(model, x_T) - exact).norm(dim=1).median() < 5e-7
    # The mean at t_min = 0.002 is off by sigma^2 / (2 c^2) of the distance from a mode.
    assert (accurate_solution(model, x_T, 800) - exact).norm(dim=1).median() > 1e-5
    coarse, fine = (follow(model, x_T, model.gaussian, count) for count in (160, 479))
    for rho in (30.0, 1.0, 0.2, 0.05):
        level = torch.tensor(rho, dtype=DOUBLE)
        assert (coarse.state(level) - fine.state(level)).norm(dim=1).median() < 2e-5


def test_equal_shares() -> None:
    """Of the density `2 v` on [0, 1] the shares of four stretches end at square roots."""
    nodes = torch.linspace(0, 1, 2001, dtype=DOUBLE)
    expected = torch.tensor([0.25, 0.5, 0.75], dtype=DOUBLE).sqrt()
    torch.testing.assert_close(equal_shares(nodes, 2 * nodes, 4), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("iterations", [0, 40])
def test_tuning_beats_its_start_on_fresh_noise(model: GaussianMixture, iterations: int) -> None:
    """All numbers of steps are learned from the same trajectories; without derivatives, too."""
    tuned = tune(model, [4, 8], (2,), iterations=iterations, dtype=DOUBLE)
    x_T = model.sde.prior_sample((128, 2), seeds=range(10_000, 10_128), dtype=DOUBLE)
    exact = ends(model, x_T)
    for number, made in tuned.items():
        assert made.error <= 0.55 * made.start_error
        solvers = {
            "tuned": get_solver("tuned", table=made.table),
            "default": get_solver("default", num_steps=number),
        }
        errors = {name: float((solver(model, x_T).x - exact).norm(dim=1).median()) for name, solver in solvers.items()}
        assert errors["tuned"] < 0.5 * errors["default"]
        assert solvers["tuned"](model, x_T).nfe == number


def test_a_model_that_does_not_know_its_gaussian_is_tuned_along_the_axes_of_its_samples(model: GaussianMixture) -> None:
    tuned = tune(Unknowing(model), [6], (2,), iterations=0, dtype=DOUBLE)[6]
    x_T = model.sde.prior_sample((128, 2), seeds=range(10_000, 10_128), dtype=DOUBLE)
    exact = ends(model, x_T)
    assert not tuned.table.free
    tuned_error, error = (
        float((solver(Unknowing(model), x_T).x - exact).norm(dim=1).median())
        for solver in (get_solver("tuned", table=tuned.table), get_solver("default", num_steps=6))
    )
    assert tuned_error < 0.3 * error


class Bound:
    """A ring whose examples are bound to a place each, as a model that is given a condition is."""

    def __init__(self, model: GaussianMixture, places: Tensor) -> None:
        self.sde: SDE = model.sde
        self._model, self._places = model, places

    def rows(self, rows: slice | Tensor) -> Bound:
        return Bound(self._model, self._places[rows])

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return self._model.score(x - self.sde.alpha(t) * self._places, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return self._model.denoise(x - self.sde.alpha(t) * self._places, t) + self._places


def test_a_model_that_is_bound_to_its_examples(model: GaussianMixture) -> None:
    """Each example keeps its own condition, when it is learned from, held out, or drawn."""
    places = 0.3 * torch.randn(576, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    tuned = tune(Bound(model, places), [6], (2,), iterations=4, dtype=DOUBLE)[6]
    assert tuned.error < 0.3 * tuned.start_error
    others = places[:128].flip(0)
    x_T = model.sde.prior_sample((128, 2), seeds=range(10_000, 10_128), dtype=DOUBLE)
    exact = ends(model, x_T) + others
    solution = get_solver("tuned", table=tuned.table)(Bound(model, others), x_T)
    default = get_solver("default", num_steps=6)(Bound(model, others), x_T)
    errors = [float((x - exact).norm(dim=1).median()) for x in (solution.x, default.x)]
    assert errors[0] < 0.4 * errors[1]
    assert solution.nfe == 6


def test_iterations_that_ruin_everything_leave_the_start(model: GaussianMixture) -> None:
    least = tune(model, [4], (2,), iterations=0, dtype=DOUBLE, reference_steps=40)[4]
    ruined = tune(model, [4], (2,), iterations=8, learning_rate=1e3, dtype=DOUBLE, reference_steps=40)[4]
    assert ruined.error <= least.error < least.start_error


def test_the_differentiable_loop_is_the_plain_one(model: GaussianMixture) -> None:
    x_T = model.sde.prior_sample((4, 2), seeds=range(4), dtype=DOUBLE)
    for free in (True, False):
        table = recommended(6, free=free).table(model.sde, model.gaussian)
        told = (1.01 * table.times).clamp(max=model.sde.T)
        for table_told in (None, told):
            made = table._replace(told=table_told)
            there = InAxes(model, model.gaussian, x_T)
            torch.testing.assert_close(
                there.turned_back(run(made, model, x_T), 1.0), integrate(made, model, x_T), rtol=0, atol=1e-12
            )


def test_weights_are_those_of_least_squares(model: GaussianMixture) -> None:
    """A gradient of the weighted squares of the last step's errors, by its weights, is nothing but the ridge's."""
    x_T = model.sde.prior_sample((256, 2), seeds=range(256), dtype=DOUBLE)
    exact = follow(model, x_T, model.gaussian, 100)
    rule = recommended(3).table(model.sde, model.gaussian)
    learned = LearnedTable(
        model.sde, rule.times, model.gaussian, rule_for(3, True), 4, bands_of(model.gaussian, 256, x_T)
    )
    end = learned.fit_weights(model, exact)
    torch.testing.assert_close(run(learned(), model, x_T).detach(), end, rtol=0, atol=1e-9)
    before = float((run(rule, model, x_T) - exact.end).norm(dim=1).sqrt().mean())
    after = float((end - exact.end).norm(dim=1).sqrt().mean())
    assert after < 0.6 * before
    # The last step's weights are at the minimum of the mean of roots.
    for feature in range(4):
        for change in (-1e-3, 1e-3):
            with torch.no_grad():
                learned.known[-1, 0, feature] += change
                moved = float((run(learned(), model, x_T) - exact.end).norm(dim=1).sqrt().mean())
                learned.known[-1, 0, feature] -= change
            assert moved > after * (1 - 2e-3)


def test_accurate_solution(model: GaussianMixture) -> None:
    """On one Gaussian the trajectory's end is known."""
    gaussian = GaussianMixture(
        VPSDE(), torch.ones(1), torch.zeros(1, 1, dtype=DOUBLE), torch.full((1, 1, 1), 0.09, dtype=DOUBLE)
    )
    x_T = gaussian.sde.prior_sample((8, 1), seeds=range(8), dtype=DOUBLE)

    def variance(t: float) -> torch.Tensor:
        time = torch.tensor(t, dtype=DOUBLE)
        return 0.09 * gaussian.sde.alpha(time) ** 2 + gaussian.sde.sigma(time) ** 2

    smallest = torch.tensor(gaussian.sde.t_min, dtype=DOUBLE)
    at_t_min = x_T * torch.sqrt(variance(gaussian.sde.t_min) / variance(1.0))
    exact = gaussian.denoise(at_t_min, smallest)
    assert torch.allclose(accurate_solution(gaussian, x_T, 200), exact, atol=1e-6)


def test_the_recommended_solver_with_noise_is_exact_on_a_gaussian_of_its_scale() -> None:
    """Its steps and its noise."""
    c, sde, eta = 0.3, VPSDE(t_min=1e-5), 0.7
    gaussian = GaussianMixture(sde, torch.ones(1), torch.zeros(1, 1, dtype=DOUBLE), torch.full((1, 1, 1), c**2))
    x_T = sde.prior_sample((8, 1), seeds=range(8), dtype=DOUBLE)
    table = recommended(10, eta=eta, free=False).table(sde, gaussian.gaussian)
    noise, rho = SampleNoise(range(8), "solver"), torch.exp(-0.5 * sde.log_snr(table.times))
    y, added = x_T / sde.alpha(table.times[0]), 0
    for start, end in pairwise(rho):
        down, up = noisy_step(start, end, eta if 0.3 * c <= end <= 3 * c else 0.0)
        y = y * torch.sqrt((c**2 + down**2) / (c**2 + start**2))
        if up > 0:
            assert torch.isclose(up, eta * end * torch.sqrt(1 - (end / start) ** 2))
            y, added = y + up * noise.normal(y), added + 1
    y = y * c / torch.sqrt(c**2 + rho[-1] ** 2)
    assert added >= 3
    solver = get_solver("default", num_steps=10, eta=eta, free=False)
    assert torch.allclose(solver(gaussian, x_T, seeds=range(8)).x, y, atol=1e-9)


def test_noise_of_a_tuned_table_is_that_of_the_recommended_solver(model: GaussianMixture) -> None:
    """The recommended table of order 2, taken for a tuned one, becomes the noisy one of order 2."""
    plain, noisy = (recommended(9, order=2, eta=eta).table(model.sde, model.gaussian) for eta in (0.0, 0.7))
    made = with_noise(plain, model.sde, 0.7)
    for name in ("state", "outputs", "noise", "blend"):
        torch.testing.assert_close(getattr(made, name), getattr(noisy, name), rtol=0, atol=1e-12)
    x_T = model.sde.prior_sample((4, 2), seeds=range(4), dtype=DOUBLE)
    drawn = get_solver("tuned", table=plain, eta=0.7)(model, x_T, seeds=range(4)).x
    assert torch.allclose(drawn, integrate(noisy, model, x_T, SampleNoise(range(4), "solver")), atol=1e-9)


def test_tables_come_back_from_their_file(model: GaussianMixture, tmp_path: Path) -> None:
    tables = {number: recommended(number).table(model.sde, model.gaussian) for number in (4, 6)}
    tables[6] = tables[6]._replace(told=0.99 * tables[6].times)
    path = tmp_path / "tuned.json"
    save_tables(path, tables, model.sde)
    for number, kept in load_tables(path).items():
        again = kept.table
        for name in _ARRAYS:
            before, after = getattr(tables[number], name), getattr(again, name)
            assert (before is None and after is None) or torch.equal(before, after)
        assert again.gaussian is not None
        assert all(torch.equal(a, b) for a, b in pairwise([model.gaussian.scales, again.gaussian.scales]))
    x_T = model.sde.prior_sample((3, 2), seeds=range(3))
    expected = get_solver("default", num_steps=4)(model, x_T).x
    assert torch.equal(get_solver("tuned", path=path, num_steps=4)(model, x_T).x, expected)


def test_bad_tables(model: GaussianMixture, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    with pytest.raises(UserError, match="tune the model first"):
        get_solver("tuned", path=path)
    faulty: list[dict[str, Any]] = [
        {"times": [1, 2]},
        {"gaussian": None, "tables": {}},
        {"gaussian": None, "tables": {"3": {}}},
    ]
    for content in faulty:
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="does not hold tuned tables"):
            get_solver("tuned", path=path)
    save_tables(path, {6: recommended(6).table(model.sde)}, model.sde)
    with pytest.raises(UserError, match="tables of 6 steps, none of 5"):
        get_solver("tuned", path=path, num_steps=5)
    with pytest.raises(UserError, match="another process"):
        get_solver("tuned", path=path)(
            GaussianMixture(VPSDE(), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]), torch.zeros(1, 2)
        )
    save_tables(path, {number: recommended(number).table(model.sde) for number in (5, 6)}, model.sde)
    with pytest.raises(UserError, match="tables of 5, 6 steps: say which"):
        get_solver("tuned", path=path)
    with pytest.raises(UserError, match="one of path= "):
        get_solver("tuned")
    with pytest.raises(UserError, match="not along the axes"):
        get_solver("tuned", path=path, num_steps=5, eta=0.5)(model, torch.zeros(1, 2))
