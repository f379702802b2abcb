"""What a log-likelihood costs: `python -m benchmarks.likelihood`.

On the trained network of a working folder (`--workdir runs/digits`), for test images with one dequantisation noise and
one Rademacher probe each, printed is the mean absolute error in bits/dim against a solution in float64 at tolerances of
1e-6, the evaluations of the right-hand side, the network calls and the seconds an image. Rows:

    reference recipe    the probability flow in t; SciPy's Dormand-Prince 5(4), rtol = atol = 1e-5; drift and divergence
                        by separate calls; the state through NumPy
    torchdiffeq in t    the same equation, value and divergence in one call; dopri5 at the loosest of the tolerances
                        that reaches the wanted error
    ours                `log_likelihood` as it is by default, by `dopri5`, with the fewest steps of `adams`, and with
                        steps learned from the training images (`--tuned`, numbers of calls)

A row of ours reaches the wanted error of 0.002 bits/dim (`--error`), or the table says that it does not. Seconds are
the least of `--rounds`, which take turns.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

from benchmarks.trained import trained_network
from score_sde.common.noise import SampleNoise
from score_sde.evaluation.likelihood.dequantisation import UniformDequantiser
from score_sde.solvers import log_likelihood
from score_sde.solvers.base import Model
from score_sde.solvers.density.tuning import tune_likelihood

TOLERANCES = (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5)
STEPS = (16, 20, 24, 28, 32, 40, 48, 64)
T_MIN = 1e-5


class Result(NamedTuple):
    """A result has log-densities `(B,)`, evaluations of the right-hand side, and network calls."""

    log_prob: Tensor
    evaluations: int
    calls: int


def drift(model: Model, x: Tensor, t: Tensor) -> Tensor:
    """Return the probability flow in t: `f x - g^2/2 score`."""
    sde = model.sde
    return sde.drift(x, t) - 0.5 * sde.expand(sde.diffusion_squared(t), x) * model.score(x, t)


def reference_recipe(model: Model, x: Tensor, probe: Tensor) -> Result:
    """Solve in the published implementation's way (`likelihood.py` there), at its tolerances."""
    calls = 0

    def derivative(t: float, state: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 2
        now = torch.from_numpy(state[: x.numel()].reshape(x.shape)).to(x)
        time_ = torch.full((len(x),), t, dtype=torch.float64)
        with torch.no_grad():
            value = drift(model, now, time_)
        with torch.enable_grad():
            now.requires_grad_()
            (product,) = torch.autograd.grad((drift(model, now, time_) * probe).sum(), now)
        divergence = (product * probe).flatten(1).sum(1)
        return np.concatenate([value.numpy().reshape(-1), divergence.numpy()])

    start = np.concatenate([x.numpy().reshape(-1), np.zeros(len(x))])
    solution = solve_ivp(derivative, (T_MIN, model.sde.T), start, rtol=1e-5, atol=1e-5, method="RK45")
    latents = torch.from_numpy(solution.y[: x.numel(), -1].reshape(x.shape)).to(x)
    integral = torch.from_numpy(solution.y[x.numel() :, -1])
    return Result(model.sde.prior_log_prob(latents).double() + integral, solution.nfev, calls)


def torchdiffeq_in_t(model: Model, x: Tensor, probe: Tensor, tolerance: float) -> Result:
    """Solve the flow in t by torchdiffeq; value and divergence come from one call."""
    calls = 0

    def derivative(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        with torch.enable_grad():
            now = state[0].detach().requires_grad_()
            value = drift(model, now, t.expand(len(now)))
            (product,) = torch.autograd.grad((value * probe).sum(), now)
        return value.detach(), (product * probe).flatten(1).sum(1)

    ends = torch.tensor([T_MIN, model.sde.T], dtype=torch.float64)
    step_t = {"step_t": ends[1:]}
    path = odeint(
        derivative, (x, x.new_zeros(len(x))), ends, rtol=tolerance, atol=tolerance, method="dopri5", options=step_t
    )
    return Result((model.sde.prior_log_prob(path[0][-1]) + path[1][-1]).double(), calls, calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--error", type=float, default=0.002, help="wanted mean absolute error, bits/dim")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tuned", type=int, nargs="*", default=[12, 16, 20, 24])
    arguments = parser.parse_args()

    model, dataset, _, _ = trained_network(arguments.workdir)
    seeds = list(range(min(arguments.images, len(dataset.test))))
    noise = SampleNoise(seeds, stream="dequantisation")
    x = UniformDequantiser(dataset.quantised.bins).sample(dataset.test[: len(seeds)], noise).x
    probe = SampleNoise(seeds, stream="probe").rademacher(x)

    def ours(model: Model = model, x: Tensor = x, **options: object) -> Result:
        result = log_likelihood(model, x, t_min=T_MIN, seeds=seeds, **options)  # type: ignore[arg-type]
        return Result(result.log_prob.double(), result.nfe, result.nfe)

    precise = copy.deepcopy(model).double()
    truth = ours(precise, x.double(), rtol=1e-6, atol=1e-6).log_prob

    def error(result: Result) -> float:
        return float((result.log_prob - truth).abs().mean()) / (x[0].numel() * math.log(2))

    def cheapest(make: Callable[..., Callable[[], Result]], values: tuple[float, ...]) -> tuple[float, Callable]:
        """Return the first of the values that reaches the wanted error, or the last."""
        for value in values:
            if error(make(value)()) <= arguments.error:
                break
        return value, make(value)

    tolerance, in_t = cheapest(lambda value: partial(torchdiffeq_in_t, model, x, probe, value), TOLERANCES)
    steps, fixed = cheapest(
        lambda value: partial(ours, method="adams", num_steps=int(value)),
        STEPS,
    )
    rows: dict[str, Callable[[], Result]] = {
        "reference recipe": partial(reference_recipe, model, x, probe),
        f"torchdiffeq in t, {tolerance:g}": in_t,
        "ours, default": ours,
        "ours, `dopri5`": partial(ours, method="dopri5"),
        f"ours, `adams`, {steps:g} steps": fixed,
    }
    learned_from = list(range(2**41, 2**41 + len(dataset.train)))
    noise = SampleNoise(learned_from, stream="dequantisation")
    examples = UniformDequantiser(dataset.quantised.bins).sample(dataset.train, noise).x
    for number in arguments.tuned:
        table = tune_likelihood(model, number, examples, t_min=T_MIN, seeds=learned_from)
        held_out = table.held_out.mean_absolute / math.log(2)
        rows[f"ours, tuned, {number} calls ({held_out:.4f} on training images held out)"] = partial(
            ours, method="tuned", table=table
        )
    seconds = dict.fromkeys(rows, math.inf)
    results: dict[str, Result] = {}
    for _ in range(arguments.rounds):
        for name, row in rows.items():
            started = time.perf_counter()
            results[name] = row()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    first = next(iter(rows))
    print(f"{len(seeds)} images, {torch.get_num_threads()} threads, one batch\n")
    print("| | error, bits/dim | evaluations | ratio | network calls | seconds an image | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, result in results.items():
        reached = error(result)
        mark = "" if reached <= arguments.error else " (not reached)"
        print(
            f"| {name} | {reached:.4f}{mark} | {result.evaluations} | "
            f"{result.evaluations / results[first].evaluations:.2f} | {result.calls} | "
            f"{seconds[name] / len(seeds):.4f} | {seconds[name] / seconds[first]:.3f} |"
        )


if __name__ == "__main__":
    main()
