"""Tuned sampling at 5 network calls beside the predictor-corrector with 999: `python -m benchmarks.tuned_vs_pc`.

Both draw from the network of a working folder as many samples as there are test examples, or `--samples`, from five
seeds; printed are the three distances to the test examples (see `evaluation.samples.distances`), their mean, and the
difference with its standard error over the seeds. The tuned sampler is learned from accurate trajectories, and its
noise from the training examples (`solvers.fast.learned_noise`); `--eta` gives an amount by hand instead. The
predictor-corrector has 500 noise levels, at each one prediction and one Langevin step, and ends with the denoised mean,
999 calls.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.trained import trained_network
from score_sde.evaluation.samples.distances import DATA_DISTANCES, DataDistances
from score_sde.evaluation.samples.draw import draw_samples
from score_sde.solvers import get_solver
from score_sde.solvers.base import Solver
from score_sde.solvers.fast.learned_noise import learn_noise
from score_sde.solvers.fast.tuning import tune

NUM_LEVELS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--samples", type=int, help="a seed; as many as test examples if left out")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--calls", type=int, default=5, help="of the tuned sampler")
    parser.add_argument("--eta", type=float, help="amount of noise of the tuned sampler; learned, if left out")
    parser.add_argument("--batch", type=int, default=120)
    arguments = parser.parse_args()

    model, dataset, _, _ = trained_network(arguments.workdir)
    start = time.process_time()
    table = tune(model, [arguments.calls], dataset.shape)[arguments.calls].table
    seconds = time.process_time() - start
    amounts: float | list[float] = arguments.eta
    if arguments.eta is None:
        amounts = learn_noise(table, model, dataset.encode(dataset.train, seed=0))
    print(f"tuned in {seconds:.0f} s, noise in {time.process_time() - start - seconds:.0f} s: {amounts}", flush=True)
    solvers: dict[str, Solver] = {
        f"tuned, {arguments.calls} calls": get_solver("tuned", table=table, eta=amounts),
        f"pc, {2 * NUM_LEVELS - 1} calls": get_solver("pc", num_steps=NUM_LEVELS, corrector_steps=1),
    }
    count = arguments.samples or len(dataset.test)
    distances = DataDistances(dataset)
    results = {name: np.empty((arguments.seeds, len(DATA_DISTANCES))) for name in solvers}
    for number in range(arguments.seeds):
        seed = arguments.first + number
        for name, solver in solvers.items():
            start = time.perf_counter()
            with torch.no_grad():
                seeds = list(range(seed * count, (seed + 1) * count))
                samples = draw_samples(model, solver, dataset.shape, seeds, arguments.batch, progress=False)
            measured = distances(samples.x)
            results[name][number] = [measured[distance] for distance in DATA_DISTANCES]
            row = "".join(f"{value:12.4f}" for value in results[name][number])
            print(
                f"seed {seed}  {name:18s}{row}   {samples.nfe:g} calls, {time.perf_counter() - start:.0f} s", flush=True
            )
    show(results, count, len(dataset.test))


def show(results: dict[str, np.ndarray], count: int, held_out: int) -> None:
    """Print means, differences, and whether the first is within two standard errors of the second, or closer."""
    (tuned_name, tuned), (pc_name, pc) = results.items()
    repetitions = len(tuned)
    print(f"\n{count} samples a seed, {repetitions} seeds, {held_out} test examples")
    print("| distance to the data | " + f"{tuned_name} | {pc_name} | difference ± standard error | within two |")
    print("|---|---|---|---|---|")
    for k, name in enumerate(DATA_DISTANCES):
        # The seeds are the same for both, but samples of the two have nothing in common: their variances add.
        error = math.sqrt((tuned[:, k].var(ddof=1) + pc[:, k].var(ddof=1)) / repetitions)
        difference = tuned[:, k].mean() - pc[:, k].mean()
        verdict = "yes" if difference <= 2 * error else "no"
        means = f"{tuned[:, k].mean():.4f} | {pc[:, k].mean():.4f}"
        print(f"| {name} | {means} | {difference:+.4f} ± {error:.4f} | {verdict} |")


if __name__ == "__main__":
    main()
