"""Few-step models beside their teacher: `python -m benchmarks.fewstep RUN …` prints Fréchet distances by network calls.

The distance is that of 2,000 samples to the test examples (see `evaluation.samples.distances`), the same latents for
all. The runs are working folders of few-step models, such as one of `configs/vp/digits_fewstep.py` for each of several
seeds; of more than one, mean and largest are printed. The teacher is sampled by `ddim` and `default`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import score_sde
from score_sde.evaluation.samples.distances import DataDistances
from score_sde.evaluation.samples.draw import draw_samples
from score_sde.experiment.run import Run
from score_sde.solvers import get_solver
from score_sde.solvers.base import Solver

CALLS = (1, 2, 4, 5, 10, 20)
MOST_JUMPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="working folders of few-step models")
    parser.add_argument("--teacher", type=Path, default=Path("runs/digits"))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed of the samples")
    arguments = parser.parse_args()

    seeds = list(range(arguments.first, arguments.first + arguments.samples))
    teacher = score_sde.load(arguments.teacher)
    distance = FrechetOf(teacher, seeds)
    few_steps = [score_sde.load(folder) for folder in arguments.runs]
    print("| | " + " | ".join(f"{calls} calls" for calls in CALLS) + " |")
    print("|---|" + "---|" * len(CALLS))
    if few_steps:
        row("flow map, jumps", lambda calls: distances(distance, few_steps, calls, renoise=False))
        row(
            "flow map, jumps to the data and noise anew",
            lambda calls: distances(distance, few_steps, calls, renoise=True),
        )
    data_std = teacher.config.sampling.data_std or 0.5
    row(
        "teacher, `default`",
        lambda calls: [distance(teacher, get_solver("default", num_steps=calls, data_std=data_std))],
    )
    row("teacher, `ddim`", lambda calls: [distance(teacher, get_solver("ddim", num_steps=calls))])


class FrechetOf:
    """Samples of a run, drawn by a solver from the same latents, have a distance to the test examples.

    Args:
        run: what has the data.
        seeds: the seeds of the samples.
    """

    def __init__(self, run: Run, seeds: list[int]) -> None:
        self.distances = DataDistances(run.dataset)
        self.shape, self.seeds = run.dataset.shape, seeds

    @torch.no_grad()
    def __call__(self, run: Run, solver: Solver) -> float:
        """Return the Fréchet distance."""
        samples = draw_samples(run.model, solver, self.shape, self.seeds, 250, progress=False)
        return self.distances.frechet(samples.x)


def distances(distance: FrechetOf, runs: list[Run], calls: int, renoise: bool) -> list[float]:
    """Return the distances of few-step models; none for more jumps than are for them."""
    if calls > MOST_JUMPS:
        return []
    solver = get_solver("consistency", num_steps=calls, renoise=renoise)
    return [distance(run, solver) for run in runs]


def row(name: str, measured: Callable[[int], list[float]]) -> None:
    """Print a row of the table, a cell for each number of calls."""
    cells = []
    for calls in CALLS:
        values = measured(calls)
        largest = f" (at most {max(values):.4f})" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.4f}{largest}" if values else "")
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
