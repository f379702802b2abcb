"""What is measured, measured again: endpoints by scipy, calls by counting, error bars by their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from score_sde.common.noise import BatchNoise
from score_sde.data import Bins, Dataset
from score_sde.evaluation.comparison.compare import Estimate, compare, endpoint_error
from score_sde.evaluation.samples.distances import DataDistances, frechet_distance, sliced_wasserstein
from score_sde.evaluation.samples.features import random_features
from score_sde.models import GaussianMixture
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver

SDE = VPSDE()


def mixture() -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], dtype=torch.float64)
    covariances = torch.tensor([[0.05, 0.02], [0.02, 0.1]], dtype=torch.float64).expand(3, 2, 2)
    return GaussianMixture(SDE, torch.tensor([0.2, 0.3, 0.5]), means, covariances)


def draw(count: int, seed: int) -> torch.Tensor:
    """Samples of the mixture."""
    model, generator = mixture(), torch.Generator().manual_seed(seed)
    component = torch.multinomial(model.log_weights.exp(), count, replacement=True, generator=generator)
    z = torch.randn(count, 2, generator=generator, dtype=torch.float64) * model.eigenvalues[component].sqrt()
    return model.means[component] + torch.einsum("bij,bj->bi", model.basis[component], z)


def by_scipy(model: GaussianMixture, x_T: torch.Tensor) -> torch.Tensor:
    """The end of the probability flow ODE `dx/dt = f x - g^2 score / 2`, then the denoised mean."""

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        time, state = torch.tensor(t, dtype=torch.float64), torch.from_numpy(x).reshape(x_T.shape)
        rate = SDE.drift(state, time) - 0.5 * SDE.diffusion_squared(time) * model.score(state, time)
        return rate.flatten().numpy()

    path = solve_ivp(velocity, (SDE.T, SDE.t_min), x_T.flatten().numpy(), method="DOP853", rtol=1e-10, atol=1e-10)
    return model.denoise(torch.from_numpy(path.y[:, -1]).reshape(x_T.shape), torch.tensor(SDE.t_min).double())


def test_endpoint_errors_are_those_computed_apart() -> None:
    model = mixture()
    result = compare(
        model, (2,), [("ddim", {}), ("dpmpp_2m", {})], (10,), num_samples=20, repetitions=(3,), dtype=torch.float64
    )
    x_T = SDE.prior_sample((20, 2), seeds=range(60, 80), dtype=torch.float64)
    exact = by_scipy(model, x_T)
    for row in result.rows:
        x = get_solver(row.run.name, num_steps=10)(model, x_T).x
        expected = (x - exact).square().sum(1).sqrt().sort().values[9]
        assert row.measures["endpoint_error"].mean == pytest.approx(float(expected), rel=1e-5)
        assert math.isnan(row.measures["endpoint_error"].standard_error)


def test_exact_trajectories_end_where_the_solvers_do() -> None:
    def error(**shared: float) -> float:
        result = compare(
            mixture(),
            (2,),
            [("unipc", {"num_steps": 100, "t_min": 0.05})],
            (),
            shared=shared,
            num_samples=16,
            repetitions=(0,),
            dtype=torch.float64,
        )
        return result.rows[0].measures["endpoint_error"].mean

    assert error(t_min=0.05) < 1e-4 < 1e-2 < error()


def test_order_two_beats_order_one_and_errors_fall_by_their_orders() -> None:
    result = compare(mixture(), (2,), [("ddim", {}), ("dpmpp_2m", {})], (50, 100), num_samples=64, dtype=torch.float64)
    errors = {(row.run.name, row.run.budget): row.measures["endpoint_error"].mean for row in result.rows}
    assert errors["dpmpp_2m", 50] < errors["ddim", 50] / 5
    for name, order in (("ddim", 1), ("dpmpp_2m", 2)):
        slope = math.log(errors[name, 50] / errors[name, 100]) / math.log(99 / 49)
        assert slope == pytest.approx(order, abs=0.3)


def test_network_calls_are_those_counted_and_noise_makes_the_difference(count_calls) -> None:
    model = mixture()
    calls = count_calls(model)
    result = compare(
        model,
        (2,),
        [("dpm_2", {}), ("pc", {}), ("dpmpp_2m_sde", {})],
        (9,),
        num_samples=24,
        batch_size=10,
        num_trajectories=0,
        repetitions=(0, 1),
        dtype=torch.float64,
    )
    assert [row.nfe for row in result.rows] == [9, 9, 9]
    # Three batches of each of two repetitions, and one to warm up.
    assert calls.total() == sum(int(row.nfe) for row in result.rows) * 7
    assert [row.deterministic for row in result.rows] == [True, False, False]
    assert all(row.seconds.mean > 0 and row.measures == {} for row in result.rows)


def test_stochastic_solvers_have_no_endpoint_error() -> None:
    result = compare(mixture(), (2,), [("pc", {}), ("ddim", {})], (9,), num_samples=16, dtype=torch.float64)
    assert [list(row.measures) for row in result.rows] == [[], ["endpoint_error"]]


def test_results_do_not_depend_on_the_batch_size() -> None:
    def measured(batch_size: int) -> list[dict[str, Estimate]]:
        data = Dataset("mixture", train=draw(300, 0).float(), test=draw(200, 1).float())
        result = compare(
            mixture(),
            (2,),
            [("ddim", {}), ("dpmpp_2m_sde", {})],
            (6,),
            dataset=data,
            num_samples=30,
            num_trajectories=20,
            batch_size=batch_size,
            repetitions=(0, 1),
            dtype=torch.float64,
        )
        return [row.measures for row in result.rows]

    for one, other in zip(measured(7), measured(30), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=1e-6)


def test_error_bars_are_standard_errors_over_repetitions() -> None:
    def error(*repetitions: int) -> Estimate:
        result = compare(mixture(), (2,), [("ddim", {})], (5,), num_samples=32, repetitions=repetitions)
        return result.rows[0].measures["endpoint_error"]

    means = [error(repetition).mean for repetition in (0, 1, 5)]
    assert error(0, 1, 5) == pytest.approx((np.mean(means), np.std(means, ddof=1) / math.sqrt(3)), rel=1e-6)


def test_error_bars_shrink_with_the_square_root_of_repetitions() -> None:
    values = np.random.default_rng(0).normal(2.0, 0.5, 6400)
    for count in (400, 1600, 6400):
        estimate = Estimate.of(values[:count].tolist())
        assert estimate.standard_error == pytest.approx(0.5 / math.sqrt(count), rel=0.1)
        assert abs(estimate.mean - 2) < 3 * estimate.standard_error
    assert Estimate.of([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt(7) / math.sqrt(3)))
    assert Estimate.of([1.0, math.inf]).mean == math.inf
    assert math.isnan(Estimate.of([1.0]).standard_error)


def test_samples_that_are_not_finite_count_as_the_worst() -> None:
    exact = torch.zeros(4, 2)
    assert endpoint_error(torch.tensor([[3.0, 4.0], [0, 1], [math.nan, 0], [math.inf, 0]]), exact[:3]) == 5
    data = Dataset("mixture", train=draw(100, 0), test=draw(100, 1))
    broken = draw(50, 2)
    broken[3] = math.nan
    assert DataDistances(data)(broken) == {"frechet": math.inf, "sliced_wasserstein": math.inf, "c2st": 1.0}


def test_distances_to_vectors_are_those_of_the_metrics() -> None:
    data = Dataset("mixture", train=draw(300, 0), test=draw(200, 1))
    distances, features = DataDistances(data), random_features(data.train)
    x = draw(150, 2)
    found = distances(x)
    assert found["frechet"] == pytest.approx(frechet_distance(features(x), features(data.test)), rel=1e-9)
    assert found["sliced_wasserstein"] == pytest.approx(sliced_wasserstein(x.numpy(), data.test.numpy()), rel=1e-12)
    everything = torch.randperm(300, generator=torch.Generator().manual_seed(5))
    assert distances.floor(1000, seed=5) == pytest.approx(distances(data.train[everything]), rel=1e-9)
    assert found["frechet"] < 3 * distances.floor(150, seed=0)["frechet"] < distances(x + 0.5)["frechet"]


def test_samples_are_rounded_to_the_datas_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 17, (80, 1, 8, 8), generator=generator, dtype=torch.uint8)
    data = Dataset("noise", train=images, test=images, units=Bins(17))
    found = DataDistances(data)(data.units.encode(images, BatchNoise(len(images), generator)))
    assert found["frechet"] == pytest.approx(0, abs=1e-9)
    assert found["sliced_wasserstein"] == pytest.approx(0, abs=1e-9)
    # One level brighter, where possible: a shift of at most a bin, 2/17, in each coordinate.
    shifted = DataDistances(data)(data.quantised.bins.encode(images + 1.0))
    brighter = (images.clamp(max=15) + 1).double().flatten(1) * 2 / 17
    expected = sliced_wasserstein(brighter.numpy(), images.double().flatten(1).numpy() * 2 / 17)
    assert shifted["sliced_wasserstein"] == pytest.approx(expected, rel=1e-9)
