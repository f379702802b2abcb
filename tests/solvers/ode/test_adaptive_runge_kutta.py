"""Tables against torchdiffeq's, their orders, and steps that belong to one example each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchdiffeq._impl.odeint import SOLVERS

from score_sde.solvers.ode.runge_kutta import StepFailureError, integrate_per_example
from score_sde.solvers.ode.tableaus import TABLEAUS

FLOAT = torch.float64


@pytest.mark.parametrize("name", TABLEAUS)
def test_tables_are_torchdiffeqs(name):
    ours, theirs = TABLEAUS[name], SOLVERS[name].tableau
    stages = len(theirs.beta)
    for row, expected in zip(ours.rows[:stages], theirs.beta, strict=True):
        assert row == pytest.approx(expected.tolist(), abs=1e-15)
    assert ours.nodes[:stages] == pytest.approx(theirs.alpha.tolist(), abs=1e-14)
    # Theirs has one more weight, a zero, where its last stage is our solution.
    solution, error = theirs.c_sol.tolist(), theirs.c_error.tolist()
    assert (*ours.rows[-1], 0.0)[: len(solution)] == pytest.approx(solution, abs=1e-15)
    # The sign of an error estimate means nothing; torchdiffeq's differs for adaptive_heun.
    sign = math.copysign(1.0, error[0] * ours.error[0])
    assert [sign * weight for weight in ours.error[: len(error)]] == pytest.approx(error, abs=1e-15)
    assert ours.error[len(error) :] == (0.0,) * (len(ours.error) - len(error))
    assert ours.order == SOLVERS[name].order


# y' = y cos(s), y(0) = 1: y = exp(sin s).
def oscillation(s, y):
    return y * torch.cos(s)[:, None]


def forced_pendulum(s, y):
    return torch.stack([y[:, 1], 0.3 * torch.cos(s) * y[:, 0] ** 2 - y[:, 0]], 1)


def equal_steps(name, count):
    start, step = torch.tensor([[1.0, 0.2]], dtype=FLOAT), 4.0 / count
    options = {"rtol": 1e9, "atol": 1e9, "first_step": step, "max_step": step}
    return integrate_per_example(forced_pendulum, start, 0.0, 4.0, TABLEAUS[name], **options)


@pytest.mark.parametrize("name", TABLEAUS)
def test_orders(name):
    exact, counts = equal_steps("dopri8", 200), np.array([10, 14, 20] if name == "dopri8" else [32, 48, 72])
    errors = [float((equal_steps(name, count) - exact).norm()) for count in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(TABLEAUS[name].order, abs=0.3)


@pytest.mark.parametrize("name", TABLEAUS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 4.0), (4.0, 0.0)])
def test_errors_follow_the_tolerance(name, start, end):
    y = torch.tensor([[math.exp(math.sin(start))]], dtype=FLOAT)
    for tolerance in (1e-4, 1e-6):
        found = integrate_per_example(oscillation, y, start, end, TABLEAUS[name], rtol=tolerance, atol=tolerance)
        error = abs(float(found) / math.exp(math.sin(end)) - 1)
        # Fehlberg's two solutions differ by a 512th of a second difference: so much is the error underestimated.
        assert error < (512 if name == "fehlberg2" else 20) * tolerance


def test_each_example_has_its_own_steps():
    """Frequencies that differ by 40: in company or alone, and as many calls as the hardest one needs alone."""
    frequency = torch.logspace(0, math.log10(40), 6, dtype=FLOAT)

    def solve(rows):
        places = []

        def field(s, y):
            places.append(s)
            return torch.stack([y[:, 1], -(frequency[rows] ** 2) * y[:, 0]], 1)

        y = torch.tensor([1.0, 0.0], dtype=FLOAT).expand(len(rows), 2)
        return integrate_per_example(field, y, 0.0, 1.0, TABLEAUS["dopri5"], rtol=1e-8, atol=1e-8), places

    together, places = solve(list(range(6)))
    assert (together[:, 0] - torch.cos(frequency)).abs().max() < 1e-5
    assert all(bool((s >= 0).all() and (s <= 1).all()) for s in places)
    alone = [solve([row]) for row in range(6)]
    assert torch.allclose(together, torch.cat([y for y, _ in alone]), rtol=1e-12, atol=1e-12)
    calls = [len(places) for _, places in alone]
    assert calls[0] < calls[-1] / 5
    assert len(places) == max(calls)


def test_failures_name_place_and_example():
    def singular(s, y):
        # y' = y^2: the second example has a pole at s = 1/2, the first one at s = 10.
        return y**2

    y = torch.tensor([[0.1], [2.0]], dtype=FLOAT)
    with pytest.raises(StepFailureError, match=r"step size vanished|not finite") as caught:
        integrate_per_example(singular, y, 0.0, 1.0, TABLEAUS["dopri5"], rtol=1e-6, atol=1e-6)
    assert caught.value.example == 1
    assert caught.value.s == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(StepFailureError, match="5 steps were not enough"):
        integrate_per_example(oscillation, y, 0.0, 4.0, TABLEAUS["dopri5"], rtol=1e-9, atol=1e-9, max_num_steps=5)
