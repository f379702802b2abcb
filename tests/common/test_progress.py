"""What is said of how far work has come: every line and its time; and that watching changes no number."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
import torch

from score_sde.common import progress
from score_sde.common.condition import Condition
from score_sde.common.progress import Progress
from score_sde.evaluation.comparison.compare import compare
from score_sde.evaluation.samples.draw import draw_samples
from score_sde.evaluation.watched import Watched
from score_sde.models import GaussianMixture, Given, rows_of
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver, log_likelihood
from score_sde.solvers.density.bounds import continuous_bound, discrete_bound, gaussian_decoder, score_flow_bound
from score_sde.solvers.fast.tuning import tune

DOUBLE = torch.float64
SDE = VPSDE()


class Clock:
    """The clock moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "_now", clock)
    return clock


def mixture() -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=DOUBLE)
    return GaussianMixture(SDE, torch.ones(2), means, 0.05 * torch.eye(2, dtype=DOUBLE).expand(2, 2, 2))


def call(bar: Progress, clock: Clock, count: int, seconds: float, *times: float) -> None:
    """Make so many calls, each so many seconds after what was before."""
    for _ in range(count):
        clock.seconds += seconds
        bar.call(torch.tensor(times or (0.5,), dtype=DOUBLE))


def test_a_line_after_5_seconds_and_every_30_from_then_on(clock, capsys):
    """Of 3 batches of 20 calls, a second each; the next line would have come after 65."""
    with Progress("samples", 3, "batch", calls=20) as bar:
        for _ in range(3):
            call(bar, clock, 20, 1.0)
            bar.update()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "samples: 0 of 3 batches, 5 of 20 calls, 00:05, 00:55 left",
        "samples: 1 of 3 batches, 15 of 20 calls, 00:35, 00:25 left",
    ]


def test_work_of_less_than_5_seconds_says_nothing(clock, capsys):
    with Progress("samples", 1, calls=20) as bar:
        call(bar, clock, 20, 0.24)
        bar.update()
    assert capsys.readouterr().err == ""


def test_where_calls_are_not_known_the_times_reached_are_said(clock, capsys):
    """The time left follows from the parts that were done, not found, and from how long ago the last one was."""
    with Progress("likelihood", 30, "example") as bar:
        bar.update(10, "1.7 bits/dim", found=True)
        call(bar, clock, 3, 2.0, 0.25, 1e-3)
        clock.seconds += 30
        bar.update(10, "1.6 bits/dim")
        call(bar, clock, 3, 10.0, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "likelihood: 10 of 30 examples, 3 calls, t = 0.001 to 0.25, 1.7 bits/dim, 00:06",
        "likelihood: 20 of 30 examples, 1.6 bits/dim, 00:36, 00:36 left",
        "likelihood: 20 of 30 examples, 3 calls, t = 0.5, 1.6 bits/dim, 01:06, 00:06 left",
    ]


def test_uneven_parts_tell_no_time_and_calls_alone_are_counted(clock, capsys):
    with Progress("comparison", 2, "batch", even=False) as bar:
        clock.seconds += 4000
        bar.update()
    with Progress("tuning") as bar:
        call(bar, clock, 1, 5.0)
        bar.note = "iteration 8, held-out error 0.1"
        call(bar, clock, 2, 20.0)
    assert capsys.readouterr().err.splitlines() == [
        "comparison: 1 of 2 batches, 1:06:40",
        "tuning: 1 call, 00:05",
        "tuning: 3 calls, iteration 8, held-out error 0.1, 00:45",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_moves_within_a_batch(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress("samples", 1, "batch", calls=4) as bar:
        call(bar, clock, 4, 1.0)
        bar.update()
    states = [line for line in terminal.getvalue().replace("\r", "\n").splitlines() if line.strip()]
    shown = [(line.split("%")[0].strip(), line.split("[")[0].split()[-1], line.count("of 4 calls")) for line in states]
    assert [state for k, state in enumerate(shown) if state not in shown[:k]] == [
        ("samples:   0", "0/1", 0),
        ("samples:  25", "0.25/1", 1),
        ("samples:  50", "0.5/1", 1),
        ("samples:  75", "0.75/1", 1),
        ("samples: 100", "1/1", 1),
        ("samples: 100", "1/1", 0),
    ]


def test_a_file_that_is_full_does_not_end_the_work(clock, monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with Progress("samples", 1, calls=20) as bar:
        call(bar, clock, 20, 10.0)
    assert bar.num_calls == 20


SOLVERS = [
    ("default", {"num_steps": 5, "eta": 0.7}, True),
    ("unipc", {"num_steps": 5}, True),
    ("heun", {"num_steps": 4, "s_churn": 1.0}, True),
    ("pc", {"num_steps": 4}, True),
    ("sde", {"num_steps": 4}, True),
    ("sde", {"adaptive": True, "rtol": 0.2, "atol": 0.2}, False),
    ("adaptive_sde", {"rtol": 0.5, "atol": 0.5}, False),
    ("ode", {"method": "rk4", "num_steps": 3}, True),
    ("ode", {"method": "adams", "num_steps": 5}, True),
    ("ode", {}, False),
    ("ode", {"per_example": False}, False),
]


@pytest.mark.parametrize(("name", "options", "fixed"), SOLVERS, ids=lambda value: str(value))
def test_as_many_calls_are_told_as_a_solver_counts_and_samples_are_the_same(name, options, fixed):
    solver, model = get_solver(name, **options), mixture()
    x_T = SDE.prior_sample((4, 2), seeds=range(4))
    with Progress("samples", 1) as bar:
        watched = solver(Watched(model, bar.call), x_T, seeds=range(4))
        # The default's first step takes a call on one example, which is none for the batch.
        assert bar.num_calls == watched.nfe + (name == "default")
    plain = solver(model, x_T, seeds=range(4))
    assert torch.equal(watched.x, plain.x)
    assert watched.nfe == plain.nfe
    assert solver.calls(SDE) == (plain.nfe if fixed else None)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
@pytest.mark.parametrize("per_example", [True, False])
def test_likelihoods_are_the_same(divergence, per_example):
    model, x = mixture(), torch.tensor([[-1.0, 0.5], [0.9, 0.2], [0.0, 0.0]])
    options = {"divergence": divergence, "seeds": range(3), "t_min": 0.05, "rtol": 0.05}
    options |= {} if per_example else {"per_example": False, "method": "dopri5"}
    with Progress("likelihood", 3, "example") as bar:
        watched = log_likelihood(Watched(model, bar.call), x, **options)
        assert bar.num_calls == watched.nfe
    assert torch.equal(watched.by_probe, log_likelihood(model, x, **options).by_probe)


def test_bounds_are_the_same():
    model, x = mixture(), torch.tensor([[-1.0, 0.5], [0.9, 0.2]])
    for bound, arguments in ((discrete_bound, (gaussian_decoder(x),)), (continuous_bound, (gaussian_decoder(x),)),
                             (score_flow_bound, ())):  # fmt: skip
        with Progress("likelihood", 2, "example") as bar:
            watched = bound(Watched(model, bar.call), x, *arguments, num_calls=3, seeds=range(2))
            assert bar.num_calls == watched.nfe
        assert torch.equal(watched.log_prob, bound(model, x, *arguments, num_calls=3, seeds=range(2)).log_prob)


def test_tuning_is_the_same():
    """With derivatives by states and times, whose calls are made again on the way back."""
    options: dict[str, Any] = {
        "num_trajectories": 16,
        "num_validation": 8,
        "batch_size": 8,
        "iterations": 6,
        "reference_steps": 16,
    }
    with Progress("tuning") as bar:
        watched = tune(Watched(mixture(), bar.call), [3], (2,), **options)[3]
        assert bar.num_calls > 6 * 2 * 3
    plain = tune(mixture(), [3], (2,), **options)[3]
    assert (watched.error, watched.start_error) == (plain.error, plain.start_error)
    for ours, theirs in zip(watched.table[:4], plain.table[:4], strict=True):
        assert torch.equal(ours, theirs)


def test_rows_and_the_lack_of_a_density_are_handed_on():
    class Shifted:
        sde, no_density = SDE, "for a reason"

        def score(self, x, t, condition):
            return x + condition.values["class"][:, None]

        denoise = score

    told: list[float] = []
    given = Given(Shifted(), Condition({"class": torch.tensor([1, 2])}))
    watched = Watched(given, lambda t: told.append(float(t)))
    x, t = torch.zeros(2, 1), torch.tensor(0.5)
    assert watched.score(x, t).tolist() == watched.denoise(x, t).tolist() == [[1.0], [2.0]]
    assert rows_of(watched, slice(1, 2)).score(x[1:], t).tolist() == [[2.0]]
    assert told == [0.5, 0.5, 0.5]
    assert watched.no_density == "for a reason"


def test_samples_and_comparisons_tell_their_calls(clock, monkeypatch, capsys, on_cpu):
    """Each call takes two seconds, as the clock has it; without progress, nothing is told."""
    tell = Progress.call

    def later(bar: Progress, t: torch.Tensor) -> None:
        clock.seconds += 2
        tell(bar, t)

    monkeypatch.setattr(Progress, "call", later)
    model, solver = mixture(), get_solver("ddim", num_steps=4)
    samples = draw_samples(model, solver, (2,), [0, 1, 2], 2)
    assert capsys.readouterr().err == "samples: 0 of 2 batches, 3 of 4 calls, 00:06, 00:10 left\n"
    silent = draw_samples(model, solver, (2,), [0, 1, 2], 2, progress=False)
    assert capsys.readouterr().err == ""
    assert torch.equal(samples.x, silent.x)
    compare(
        model, (2,), [("ddim", {})], (4,), num_samples=8, num_trajectories=0, batch_size=4, repetitions=(0, 1, 2, 3)
    )
    # The warm-up, and then 8 batches.
    assert capsys.readouterr().err.splitlines() == [
        "comparison, ddim num_steps=4: 0 of 8 batches, 3 of 4 calls, 00:06",
        "comparison, ddim num_steps=4: 3 of 8 batches, 2 of 4 calls, 00:36",
        "comparison, ddim num_steps=4: 7 of 8 batches, 1 of 4 calls, 01:06",
    ]
