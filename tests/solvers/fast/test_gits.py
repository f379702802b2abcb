"""GITS's grid: the shortest path by trying all, costs on a Gaussian in closed form, and the file of its times."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import get_solver
from score_sde.solvers.fast.gits import cheapest_path, euler_costs, gits_times, load_times, save_times
from score_sde.solvers.grids import time_grid

DOUBLE = torch.float64


def gaussian(sde: SDE, std: float) -> GaussianMixture:
    return GaussianMixture(sde, torch.ones(1), torch.zeros(1, 2), std**2 * torch.eye(2, dtype=DOUBLE)[None])


@pytest.mark.parametrize("growth", [1.0, 1.15, 1.7])
@pytest.mark.parametrize("num_nodes", [2, 3, 5, 7])
def test_the_shortest_path_is_found(num_nodes: int, growth: float) -> None:
    costs = torch.rand(7, 7, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    costs = costs.masked_fill(torch.ones(7, 7).tril().bool(), float("inf"))

    def price(path: tuple[int, ...]) -> float:
        return sum(growth**k * float(costs[path[k], path[k + 1]]) for k in range(len(path) - 1))

    paths = [(0, *between, 6) for between in combinations(range(1, 6), num_nodes - 2)]
    assert tuple(cheapest_path(costs, num_nodes, growth)) == min(paths, key=price)


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(0.01, 50.0)])
def test_costs_on_a_gaussian(sde: SDE) -> None:
    """There `y` goes as `s = sqrt(rho^2 + c^2)`: a step of Euler's misses by `|s_i + (rho_j - rho_i) s'_i - s_j|`."""
    times = time_grid(sde, "karras", 61)
    x_T = sde.prior_sample((5, 2), seeds=range(5), dtype=DOUBLE)
    costs = euler_costs(gaussian(sde, 0.5), times, x_T)
    rho = sde.at(times).rho
    s = torch.sqrt(rho**2 + 0.25)
    missed = (s[:, None] + (rho - rho[:, None]) * (rho / s)[:, None] - s).abs()
    y_T = (x_T / sde.at(times[:1]).alpha).norm(dim=1).mean()
    above = torch.ones(61, 61).triu(1).bool()
    torch.testing.assert_close(costs[above], (missed * y_T / s[0])[above], rtol=1e-2, atol=2e-4)
    assert costs[~above].isinf().all()


def test_times_suit_the_model() -> None:
    """Of the same solver, errors on other noise are a third of those on the grid that it has of itself."""
    means = torch.tensor([[0.6, 0.2], [-0.5, 0.3], [0.0, -0.6]], dtype=DOUBLE)
    model = GaussianMixture(VPSDE(), torch.ones(3), means, 0.01 * torch.eye(2, dtype=DOUBLE).repeat(3, 1, 1))
    times = gits_times(model, 6, (2,), num_trajectories=32, dtype=DOUBLE)
    assert (len(times), times[0], times[-1]) == (6, model.sde.T, model.sde.t_min)
    x_T = model.sde.prior_sample((64, 2), seeds=range(100, 164), dtype=DOUBLE)
    exact = get_solver("unipc", num_steps=200)(model, x_T).x

    def error(**options: object) -> Tensor:
        return (get_solver("ipndm", order=2, **options)(model, x_T).x - exact).norm(dim=1).mean()

    assert error(grid=times) < error(num_steps=6) / 3


def test_times_are_kept_for_one_process(tmp_path) -> None:
    path, sde, times = tmp_path / "gits_3.json", VPSDE(), [1.0, 0.4, 1e-3]
    assert load_times(path, sde) is None
    save_times(path, times, sde)
    assert load_times(path, sde, 1e-3) == times
    assert load_times(path, sde, 1e-2) is None
    assert load_times(path, VPSDE(0.1, 15.0), 1e-3) is None
    path.write_text("[]")
    with pytest.raises(UserError, match="delete it"):
        load_times(path, sde)
