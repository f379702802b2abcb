"""The variance of reverse steps on digits: fixed, analytic and learned, by the bound and by samples.

`python -m benchmarks.variances --workdir runs/digits_iddpm`, of a network of `configs/vp/digits_iddpm.py`. All rows are
of the same network, on the same noise, so that bounds are compared image by image. Errors are measured on one half of
the test images for the other half.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.trained import Trained, trained_network
from score_sde.evaluation.samples.distances import frechet_distance, sliced_wasserstein
from score_sde.models.analytic_variance import FixedVariance, JacobianVariance, measure_variance
from score_sde.models.learned_variance import LearnedVariance
from score_sde.solvers import get_solver
from score_sde.solvers.density.bounds import discrete_bound, discretised_gaussian_decoder

GRIDS = ("uniform_log_snr", "uniform_t")
# It takes the images that errors may be measured on.
Variance = Callable[[Tensor], Any]


def variances(model: LearnedVariance) -> dict[str, Variance]:
    """Return models of one network, each with another variance."""
    return {
        "fixed: beta-tilde": lambda x: FixedVariance(model, 0.0),
        "fixed: beta": lambda x: FixedVariance(model, 1.0),
        "analytic: errors": lambda x: measure_variance(model, x),
        "analytic: errors, each pixel": lambda x: measure_variance(model, x, each=True),
        "analytic: derivative": lambda x: JacobianVariance(model),
        "analytic: derivative, each pixel": lambda x: JacobianVariance(model, each=True),
        "learned": lambda x: model,
    }


def bits(trained: Trained, variance: Variance, grid: str, num_steps: int, repeats: int) -> Tensor:
    """Return the bound on each test image, in bits per dimension, `(N,)`."""
    dataset = trained.dataset
    levels, units = dataset.test, dataset.units
    x_0 = units.place + units.spacing * levels.float()
    halves = [slice(0, None, 2), slice(1, None, 2)]
    found = torch.zeros(len(levels), dtype=torch.float64)
    for own, other in (halves, halves[::-1]):
        model = variance(x_0[other])
        decoder = discretised_gaussian_decoder(levels[own], units.place, units.spacing, units.levels)
        for repeat in range(repeats):
            seeds = range(10_000 * repeat, 10_000 * repeat + len(x_0[own]))
            options: dict[str, Any] = {"num_steps": num_steps, "grid": grid, "seeds": seeds}
            found[own] -= discrete_bound(model, x_0[own], decoder, **options).log_prob / repeats
    return found / (math.log(2) * x_0[0].numel())


def error(values: Tensor) -> float:
    """Return the standard error of the mean of values `(N,)`."""
    return float(values.std()) / math.sqrt(len(values))


def show_bounds(trained: Trained, num_steps: int, repeats: int) -> None:
    """Print the bound with each variance, and by how much less it is than with the fixed ones, image by image."""
    for grid in GRIDS:
        print(f"bound of {num_steps} steps, {grid}, bits/dim of {len(trained.dataset.test)} test images")
        print(f"{'':34} {'bound':>17} {'less than beta-tilde':>25} {'less than beta':>25}", flush=True)
        fixed: list[Tensor] = []
        for name, variance in variances(trained.model).items():
            found = bits(trained, variance, grid, num_steps, repeats)
            row = f"{name:34} {float(found.mean()):8.4f} ± {error(found):.4f}"
            for other in fixed[:2]:
                gain = other - found
                row += f"   {float(gain.mean()):8.4f} ± {error(gain):.4f} ({float(gain.mean()) / error(gain):4.0f})"
            print(row, flush=True)
            fixed.append(found)


def show_samples(trained: Trained, counts: tuple[int, ...], num_samples: int) -> None:
    """Print how far ancestral samples are from the training images, in pixels' means and covariances, and sliced."""
    dataset, model = trained.dataset, trained.model
    x_0 = dataset.units.place + dataset.units.spacing * dataset.train.float()
    data = x_0.flatten(1).numpy()
    x_T = model.sde.prior_sample((num_samples, *dataset.shape), seeds=range(num_samples))
    print(
        f"{num_samples} ancestral samples beside {len(data)} training images: Fréchet and sliced Wasserstein distances"
    )
    for name, variance in variances(model).items():
        row = f"{name:34}"
        for num_steps in counts:
            solver = get_solver("pc", predictor="ancestral", corrector="none", num_steps=num_steps)
            x = solver(variance(x_0[:512]), x_T, seeds=range(num_samples)).x.flatten(1).numpy()
            row += f"   {num_steps:3} steps {frechet_distance(x, data):7.3f} {sliced_wasserstein(x, data):6.4f}"
        print(row, flush=True)


def main() -> None:
    """Read the flags, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits_iddpm"))
    parser.add_argument("--num-steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2, help="draws of the noise of each image")
    parser.add_argument("--samples", type=int, default=1000)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    trained = trained_network(flags.workdir)
    show_bounds(trained, flags.num_steps, flags.repeats)
    if flags.samples:
        show_samples(trained, (10, 25, 50), flags.samples)


if __name__ == "__main__":
    main()
