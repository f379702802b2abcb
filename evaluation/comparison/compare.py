"""Solvers side by side: on the same model, from the same noise, at the same budgets of network calls.

Measured, for every solver and budget, over several repetitions that differ in nothing but their noise:

    endpoint_error       deterministic solvers: Euclidean distance, in model units, from a sample to the end of the
                         exact trajectory from the same latent, at `t_min` and denoised; the median over samples
    frechet, sliced_wasserstein, c2st
                         distances to held-out data; see `evaluation.samples.distances`
    seconds              a sample, after a warm-up, in batches of the given size
    nfe                  network calls a sample

Repetition `r` draws its sample `i` with the seed `r * num_samples + i`, whatever the solver. The exact trajectory is
the probability flow ODE's at tight tolerances. As no solver may ask the model below `t_min`, it too ends there with the
denoised mean; a solver that ends in another way keeps a small distance from it, however many its calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.progress import Progress
from score_sde.data import Dataset
from score_sde.evaluation.comparison.contenders import Run, runs_within
from score_sde.evaluation.samples.distances import DATA_DISTANCES, NUM_FOLDS, DataDistances
from score_sde.evaluation.samples.straightness import straightness
from score_sde.evaluation.watched import Watched
from score_sde.solvers import Model
from score_sde.solvers.base import Solver

MEASURES = ("endpoint_error", *DATA_DISTANCES)

# The exact trajectory is solved at these tolerances.
_EXACT = {torch.float32: 1e-6, torch.float64: 1e-9}
# The warm-up's seeds are shifted by this, so that its noise is none of the comparison's.
_OTHER_NOISE = 2**40


class Estimate(NamedTuple):
    """An estimate is a mean over repetitions, with its standard error: `nan` if there was but one."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Make an estimate of one value a repetition."""
        if not np.isfinite(values).all():
            return cls(math.inf, math.nan)
        error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), float(error))


@dataclass(frozen=True)
class Row:
    """A row holds what was measured of one run.

    Attributes:
        run: the solver and its options.
        nfe: network calls a sample; a mean over batches if steps are adaptive.
        deterministic: whether samples are a function of the latent alone.
        seconds: seconds a sample.
        measures: what was measured, by name: those of `MEASURES` that apply.
    """

    run: Run
    nfe: float
    deterministic: bool
    seconds: Estimate
    measures: dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """A comparison is rows, and how they came about.

    Attributes:
        rows: the rows, in the order in which the solvers were given, by rising budget.
        floor: distances of other real data from the held-out data; empty without data.
        repetitions: numbers of the repetitions.
        num_samples: number of samples a repetition.
        num_trajectories: number of samples of these that have an exact endpoint.
        num_held_out: number of held-out examples.
        batch_size: number of samples drawn at once.
        tolerance: tolerance of the exact trajectories.
        device: name of the device that it ran on.
        straightness: how far trajectories are from straight lines (`evaluation.samples.straightness`); None where there
            are none.
    """

    rows: list[Row]
    floor: dict[str, Estimate]
    repetitions: list[int]
    num_samples: int
    num_trajectories: int
    num_held_out: int
    batch_size: int
    tolerance: float
    device: str
    straightness: Estimate | None = None


def compare(
    model: Model,
    shape: Sequence[int],
    contenders: Sequence[tuple[str, Mapping[str, Any]]],
    budgets: Sequence[int],
    *,
    shared: Mapping[str, Any] = MappingProxyType({}),
    dataset: Dataset | None = None,
    repetitions: Sequence[int] = (0, 1, 2),
    num_samples: int = 1000,
    num_trajectories: int = 256,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Comparison:
    """Measure solvers at budgets, on the same latents.

    Args:
        model: a trained model, or an analytic one.
        shape: shape of one sample.
        contenders: names and options of solvers; see `evaluation.comparison.contenders`.
        budgets: numbers of network calls a sample.
        shared: options such as `t_min`, for those solvers that have them; the exact trajectories among them.
        dataset: what samples are compared with; if left out, only endpoints are.
        repetitions: numbers of the repetitions, from which seeds follow.
        num_samples: number of samples a repetition.
        num_trajectories: number of samples of these that are compared with exact endpoints; 0 for none.
        batch_size: number of samples drawn at once.
        dtype: dtype of the samples.
        device: where the model is.
        progress: whether to show a progress bar.

    Raises:
        UserError: a solver or an option does not exist, or cannot meet any budget; there are too few samples.
    """
    if dataset is not None and num_samples < NUM_FOLDS:
        raise UserError(f"num_samples={num_samples} are too few to compare with data: {NUM_FOLDS} or more")
    runs = [run for name, options in contenders for run in runs_within(name, options, budgets, model.sde, shared)]
    num_trajectories = min(num_trajectories, num_samples)
    num_batches = math.ceil(num_samples / batch_size) * len(runs) + math.ceil(num_trajectories / batch_size)
    distances = DataDistances(dataset) if dataset is not None else None
    with Progress("comparison", num_batches * len(repetitions), "batch", even=False, shown=progress) as bar:
        watched = Watched(model, bar.call)
        draws = _Draws(watched, tuple(shape), num_samples, batch_size, dtype, torch.device(device), bar)
        endpoints = _exact_endpoints(draws, repetitions, num_trajectories, shared) if num_trajectories else {}
        bends = [draws.straightness(number, num_trajectories) for number in repetitions if num_trajectories]
        rows = [_measure(draws, run, repetitions, endpoints, distances) for run in runs]
    floors = [distances.floor(num_samples, repetition) for repetition in repetitions] if distances else []
    return Comparison(
        rows,
        {name: Estimate.of([floor[name] for floor in floors]) for name in DATA_DISTANCES} if floors else {},
        list(repetitions),
        num_samples,
        num_trajectories,
        len(dataset.test) if dataset is not None else 0,
        batch_size,
        _EXACT[dtype],
        _device_name(torch.device(device)),
        Estimate.of(bends) if bends else None,
    )


def endpoint_error(x: Tensor, exact: Tensor) -> float:
    """Return the median Euclidean distance of the samples `exact` `(M, *shape)` to the first `M` of `x`."""
    gaps = torch.linalg.vector_norm((x[: len(exact)] - exact).double().flatten(1), dim=1)
    return float(gaps.nan_to_num(nan=math.inf).median())


class _Drawn(NamedTuple):
    """A repetition's samples `(N, *shape)` took so many network calls and seconds a sample."""

    x: Tensor
    nfe: float
    seconds: float


@dataclass(frozen=True)
class _Draws:
    """Samples are drawn from the latents that all solvers of a comparison share."""

    model: Model
    shape: tuple[int, ...]
    num_samples: int
    batch_size: int
    dtype: torch.dtype
    device: torch.device
    bar: Progress

    def repetition(self, solver: Solver, number: int, count: int | None = None) -> _Drawn:
        """Draw the samples of a repetition, or only those of the batches that hold the first `count`."""
        parts, calls, seconds = [], 0, 0.0
        for seeds in self._batches(number, count or self.num_samples):
            latents = self._latents(seeds)
            started = _clock(self.device)
            solution = solver(self.model, latents, seeds=seeds)
            seconds += _clock(self.device) - started
            calls += solution.nfe * len(seeds)
            parts.append(solution.x.cpu())
            self.bar.update()
        x = torch.cat(parts)
        return _Drawn(x, calls / len(x), seconds / len(x))

    def warm_up(self, solver: Solver, number: int) -> Tensor:
        """Draw a repetition's first batch: from its own latents, with other noise on the way."""
        seeds = self._batches(number, self.num_samples)[0]
        x = solver(self.model, self._latents(seeds), seeds=[seed + _OTHER_NOISE for seed in seeds]).x.cpu()
        self.bar.update(0)
        return x

    def straightness(self, number: int, count: int) -> float:
        """Return how far trajectories of a repetition, of its first batch, are from straight lines."""
        self.bar.what, self.bar.calls = "comparison, straightness", None
        return straightness(self.model, self._latents(self._batches(number, self.num_samples)[0][:count]))

    def _batches(self, number: int, count: int) -> list[list[int]]:
        first = number * self.num_samples
        seeds = list(range(first, first + self.num_samples))
        return [seeds[start : start + self.batch_size] for start in range(0, count, self.batch_size)]

    def _latents(self, seeds: list[int]) -> Tensor:
        return self.model.sde.prior_sample((len(seeds), *self.shape), seeds=seeds, dtype=self.dtype, device=self.device)


def _exact_endpoints(
    draws: _Draws, repetitions: Sequence[int], count: int, shared: Mapping[str, Any]
) -> dict[int, Tensor]:
    draws.bar.what = "comparison, exact trajectories"
    tolerance = _EXACT[draws.dtype]
    (run,) = runs_within("ode", {"rtol": tolerance, "atol": tolerance}, (), draws.model.sde, shared)
    exact = run.solver()
    return {number: draws.repetition(exact, number, count).x[:count] for number in repetitions}


def _measure(
    draws: _Draws, run: Run, repetitions: Sequence[int], endpoints: dict[int, Tensor], distances: DataDistances | None
) -> Row:
    solver = run.solver()
    draws.bar.what = f"comparison, {run.label} {run.setting}".rstrip()
    draws.bar.calls = solver.calls(draws.model.sde)
    warm_up = draws.warm_up(solver, repetitions[0])
    deterministic = False
    drawn, found = [], []
    for number in repetitions:
        samples = draws.repetition(solver, number)
        if number == repetitions[0]:
            deterministic = torch.allclose(samples.x[: len(warm_up)], warm_up, rtol=1e-4, atol=1e-5, equal_nan=True)
        values = distances(samples.x) if distances else {}
        if deterministic and endpoints:
            values["endpoint_error"] = endpoint_error(samples.x, endpoints[number])
        drawn.append((samples.nfe, samples.seconds))
        found.append(values)
    nfe, seconds = zip(*drawn, strict=True)
    measures = {name: Estimate.of([values[name] for values in found]) for name in MEASURES if name in found[0]}
    return Row(run, float(np.mean(nfe)), deterministic, Estimate.of(seconds), measures)


def _clock(device: torch.device) -> float:
    """Return the time in seconds, once the device has finished what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
