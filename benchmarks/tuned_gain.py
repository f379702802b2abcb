"""What tuning gains on runs that are told captions: `python -m benchmarks.tuned_gain runs/latents/0/latent …`.

For each run and scale of guidance samplers are tuned to captions of the training part (`solvers.fast.tuning`), and run
beside the recommended solver from other noise with captions of held-out compositions. Printed are distances to a
solution of `FINE` steps from the same noise, in parts of the deviation of its numbers, with standard errors over
samples, and how many times smaller the tuned one is. As where samplers are tuned, roots of distances are averaged, so
that the few samples close to where trajectories part do not rule.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor

import score_sde
from score_sde.control import Guided
from score_sde.data.captions import CAPTION
from score_sde.data.words import Part
from score_sde.experiment.run import Run
from score_sde.models import Given
from score_sde.solvers import get_solver
from score_sde.solvers.base import Model
from score_sde.solvers.fast.tuning import tune

FINE = 60
_FIRST_SEED = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--budgets", type=int, nargs="+", default=[5, 6, 8, 10])
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 1.0])
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--trajectories", type=int, default=24, help="that are learned from, and half as many held out")
    parser.add_argument("--iterations", type=int, default=0, help="by gradient, after weights by least squares")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | guidance | steps | recommended | tuned | times smaller |\n|---|---|---|---|---|---|", flush=True)
    for folder in arguments.runs:
        for scale in arguments.scales:
            compare(score_sde.load(folder), scale, arguments)


def compare(run: Run, scale: float, arguments: argparse.Namespace) -> None:
    """Tune to a run with this scale of guidance, and print a line for each number of steps."""
    begun, many, shape = time.process_time(), arguments.trajectories, run.dataset.model_shape
    data_std = run.config.sampling.data_std or 0.5
    tuned = tune(
        asked(run, "train", many + many // 2, scale),
        arguments.budgets,
        shape,
        num_trajectories=many,
        num_validation=many // 2,
        batch_size=min(16, many),
        iterations=arguments.iterations,
        data_std=data_std,
        reference_steps=FINE,
    )
    seconds = time.process_time() - begun
    model = asked(run, "test", arguments.samples, scale)
    x_T = model.sde.prior_sample((arguments.samples, *shape), seeds=range(_FIRST_SEED, _FIRST_SEED + arguments.samples))

    def recommended(number: int) -> Tensor:
        return get_solver("default", num_steps=number, data_std=data_std)(model, x_T).x

    with torch.no_grad():
        exact = recommended(FINE)
        for number in arguments.budgets:
            found = get_solver("tuned", table=tuned[number].table)(model, x_T).x
            ours, theirs = roots(found, exact), roots(recommended(number), exact)
            gain = (theirs.mean() / ours.mean()) ** 2
            error = 2 * gain * (theirs / theirs.mean() - ours / ours.mean()).std() / math.sqrt(len(ours))
            cells = f"{run.folder.name} | {scale:g} | {number} | {in_words(theirs)} | {in_words(ours)}"
            print(f"| {cells} | {gain:.2f} ± {error:.2f} |", flush=True)
        half = in_words(roots(recommended(FINE // 2), exact))
    print(f"tuned in {seconds:.0f} s of one core; of {FINE // 2} steps the recommended solver has {half}", flush=True)


def asked(run: Run, part: Part, count: int, scale: float) -> Model:
    """Return the model of samples with captions spread evenly over a part, guided to them."""
    rows = torch.linspace(0, len(getattr(run.dataset, part)) - 1, count).long()
    given = Given(run.model, run.dataset.condition_of(part, rows, labelled=False, names=[CAPTION]))
    return given if scale == 1 else Guided(given, run.model, scale)


def roots(x: Tensor, exact: Tensor) -> Tensor:
    """Return the roots of distances `(B,)`, float64, a number, in parts of the deviation of the exact ones."""
    return ((x - exact).double().flatten(1).square().mean(1).sqrt() / exact.double().std()).sqrt()


def in_words(roots: Tensor) -> str:
    """Return the square of the mean of roots with its standard error."""
    mean = roots.mean()
    return f"{mean**2:.4f} ± {2 * mean * roots.std() / math.sqrt(len(roots)):.4f}"


if __name__ == "__main__":
    main()
