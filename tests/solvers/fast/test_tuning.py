"""Tuning: better than its start on noise it has not seen, kept in a file, and never worse."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.fast.default import noisy_step, recommended
from score_sde.solvers.fast.learned_table import LearnedTable, run
from score_sde.solvers.fast.table import integrate
from score_sde.solvers.fast.tuned import _ARRAYS, load_table, save_table, table_path, with_noise
from score_sde.solvers.fast.tuning import accurate_solution, tune

DOUBLE = torch.float64


@pytest.fixture(scope="module", name="model")
def ring() -> GaussianMixture:
    angle = torch.arange(6, dtype=DOUBLE) * 2 * math.pi / 6
    means = 0.7 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return GaussianMixture(
        VESDE(0.002, 80.0), torch.ones(6), means, 0.05**2 * torch.eye(2, dtype=DOUBLE).repeat(6, 1, 1)
    )


@pytest.mark.parametrize("num_steps", [5, 8])
def test_tuning_beats_its_start_on_fresh_noise(model: GaussianMixture, num_steps: int) -> None:
    tuned = tune(model, num_steps, (2,), iterations=120, dtype=DOUBLE, reference_steps=60)
    assert tuned.error <= 0.4 * tuned.start_error
    x_T = model.sde.prior_sample((128, 2), seeds=range(10_000, 10_128), dtype=DOUBLE)
    exact = accurate_solution(model, x_T)
    errors = {
        name: float((solver(model, x_T).x - exact).norm(dim=1).median())
        for name, solver in {
            "tuned": get_solver("tuned", table=tuned.table),
            "default": get_solver("default", num_steps=num_steps),
        }.items()
    }
    assert errors["tuned"] < 0.5 * errors["default"]
    assert get_solver("tuned", table=tuned.table)(model, x_T).nfe == num_steps


def test_no_iterations_give_the_recommended_solver(model: GaussianMixture) -> None:
    """A learning rate that ruins everything leaves the start."""
    tuned = tune(model, 4, (2,), iterations=8, learning_rate=1e3, dtype=DOUBLE, reference_steps=40)
    assert tuned.error <= tuned.start_error


def test_the_differentiable_loop_is_the_plain_one(model: GaussianMixture) -> None:
    x_T = model.sde.prior_sample((4, 2), seeds=range(4), dtype=DOUBLE)
    table = recommended(6).table(model.sde)
    assert torch.allclose(run(table, model, x_T)[0], integrate(table, model, x_T), atol=1e-12)


def test_coordinates_of_the_weights_are_whitened(model: GaussianMixture) -> None:
    """A unit of any coordinate of the last step moves the end by the start's error, but for the ridge."""
    x_T = model.sde.prior_sample((256, 2), seeds=range(256), dtype=DOUBLE)
    exact = accurate_solution(model, x_T, 60)
    learned = LearnedTable(model.sde, 3, order=2, memory=10, data_std=0.5)
    learned.whiten(model, x_T, exact)
    with torch.no_grad():
        start = run(learned(), model, x_T)[0]
        unit = (start - exact).square().sum(1).mean().sqrt()
        # The newest output comes first, and no other takes its place: the ridge hardly matters.
        learned.theta[2, 3] = 1.0
        moved = (run(learned(), model, x_T)[0] - start).square().sum(1).mean().sqrt()
        assert 0.99 * unit < moved <= unit
        learned.theta[2] = torch.randn(4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        moved = (run(learned(), model, x_T)[0] - start).square().sum(1).mean().sqrt()
        assert moved <= unit * learned.theta[2].norm() * (1 + 1e-6)


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
    table = recommended(10, data_std=c, eta=eta).table(sde)
    noise, rho = SampleNoise(range(8), "solver"), torch.exp(-0.5 * sde.log_snr(table.times))
    y, added = x_T / sde.alpha(table.times[0]), 0
    for start, end in pairwise(rho):
        down, up = noisy_step(start, end, c, eta)
        y = y * torch.sqrt((c**2 + down**2) / (c**2 + start**2))
        if up > 0:
            assert 0.3 * c <= end <= 3 * c
            assert torch.isclose(up, eta * end * torch.sqrt(1 - (end / start) ** 2))
            y, added = y + up * noise.normal(y), added + 1
    y = y * c / torch.sqrt(c**2 + rho[-1] ** 2)
    assert added >= 3
    solver = get_solver("default", num_steps=10, data_std=c, eta=eta)
    assert torch.allclose(solver(gaussian, x_T, seeds=range(8)).x, y, atol=1e-9)


def test_noise_of_a_tuned_table_is_that_of_the_recommended_solver(model: GaussianMixture) -> None:
    """The recommended table of order 2, taken for a tuned one, becomes the noisy one of order 2."""
    plain, noisy = (recommended(9, order=2, eta=eta).table(model.sde) for eta in (0.0, 0.7))
    made = with_noise(plain, model.sde, 0.5, 0.7)
    for name in _ARRAYS:
        assert torch.allclose(getattr(made, name), getattr(noisy, name), atol=1e-12)
    x_T = model.sde.prior_sample((4, 2), seeds=range(4), dtype=DOUBLE)
    drawn = get_solver("tuned", table=plain, eta=0.7)(model, x_T, seeds=range(4)).x
    assert torch.allclose(drawn, integrate(noisy, model, x_T, SampleNoise(range(4), "solver")), atol=1e-9)
    with pytest.raises(UserError, match=r"not tuned with data_std=0\.7"):
        get_solver("tuned", table=plain, eta=0.7, data_std=0.7)(model, x_T)


def test_a_table_comes_back_from_its_file(model: GaussianMixture, tmp_path: Path) -> None:
    table = recommended(6).table(model.sde)
    save_table(table_path(tmp_path, 6), table, model.sde)
    again = load_table(table_path(tmp_path, 6))
    assert all(torch.equal(getattr(table, name), getattr(again, name)) for name in _ARRAYS)
    x_T = model.sde.prior_sample((3, 2), seeds=range(3))
    expected = get_solver("default", num_steps=6)(model, x_T).x
    assert torch.equal(get_solver("tuned", path=tmp_path, num_steps=6)(model, x_T).x, expected)


def test_bad_tables(model: GaussianMixture, tmp_path: Path) -> None:
    path = tmp_path / "tuned_6.json"
    with pytest.raises(UserError, match="tune the model first"):
        get_solver("tuned", path=path)
    path.write_text(json.dumps({"times": [1, 2]}))
    with pytest.raises(UserError, match="not a tuned table"):
        get_solver("tuned", path=path)
    save_table(path, recommended(6).table(model.sde), model.sde)
    with pytest.raises(UserError, match="for 6 steps, not 5"):
        get_solver("tuned", path=path, num_steps=5)
    with pytest.raises(UserError, match="say for which num_steps"):
        get_solver("tuned", path=tmp_path)
    with pytest.raises(UserError, match="another process"):
        get_solver("tuned", path=path)(
            GaussianMixture(VPSDE(), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]), torch.zeros(1, 2)
        )
    with pytest.raises(UserError, match="one of path= "):
        get_solver("tuned")
