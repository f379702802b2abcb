"""Posterior sampling on a mixture whose posterior is known: `python -m benchmarks.posterior`.

Three Gaussians in the plane, of which the second coordinate is observed, with noise of standard deviation 0.2 (DPS,
ΠGDM) or without (projection, RePaint). For each method: the mean of the other coordinate, its standard deviation as a
part of the exact one, and its Wasserstein distance to draws from the exact posterior; beside it that of two sets of
such draws.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from control import DPS, Controlled, Masked, Observation, PiGDM, Projection, RePaint
from evaluation.metrics import wasserstein_1d
from models import GaussianMixture
from sde import VPSDE
from solvers import Model, get_solver
from solvers.registry import Solver

FLOAT = torch.float64
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=FLOAT)
MEANS = torch.tensor([[1.0, 0.4], [-1.0, 0.0], [0.0, -1.0]], dtype=FLOAT)
COVARIANCES = torch.tensor(
    [[[0.2, 0.12], [0.12, 0.15]], [[0.15, -0.1], [-0.1, 0.15]], [[0.1, 0.0], [0.0, 0.2]]], dtype=FLOAT
)
OBSERVED, NOISE_STD = 0.3, 0.2


class Posterior(NamedTuple):
    """Of the first coordinate: shares, means and variances of its components."""

    shares: Tensor
    means: Tensor
    variances: Tensor

    @property
    def mean(self) -> float:
        return float(self.shares @ self.means)

    @property
    def std(self) -> float:
        return float(self.shares @ (self.variances + self.means**2) - self.mean**2) ** 0.5

    def sample(self, count: int, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        noise = torch.randn(count, generator=generator, dtype=FLOAT)
        return (self.means[chosen] + self.variances[chosen].sqrt() * noise).numpy()


def exact(noise_std: float) -> Posterior:
    """Given that the second coordinate was observed with such noise."""
    variance = COVARIANCES[:, 1, 1] + noise_std**2
    residual, gain = OBSERVED - MEANS[:, 1], COVARIANCES[:, 0, 1] / variance
    log_shares = WEIGHTS.log() - 0.5 * (residual**2 / variance + variance.log())
    return Posterior(
        torch.softmax(log_shares, 0),
        MEANS[:, 0] + gain * residual,
        COVARIANCES[:, 0, 0] - gain * COVARIANCES[:, 0, 1],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    count = arguments.samples

    prior = GaussianMixture(VPSDE(), WEIGHTS, MEANS, COVARIANCES)
    data_std = float(prior_std())
    mask, y = Masked(torch.tensor([False, True])), torch.tensor([[0.0, OBSERVED]], dtype=FLOAT).expand(count, 2)
    ode = get_solver("dpmpp_2s", num_steps=arguments.steps)
    sde = get_solver("dpmpp_2s_sde", num_steps=arguments.steps)
    pc = get_solver("pc", num_steps=arguments.steps)
    observation = Observation(mask, y, NOISE_STD)
    dps, pi_gdm = DPS(prior, observation), PiGDM(prior, observation, data_std=data_std)
    methods: dict[str, tuple[Solver, Model, float]] = {
        "DPS, ODE": (ode, dps, NOISE_STD),
        "DPS, SDE": (sde, dps, NOISE_STD),
        "ΠGDM, ODE": (ode, pi_gdm, NOISE_STD),
        "ΠGDM, SDE": (sde, pi_gdm, NOISE_STD),
        "projection, ODE": (Controlled(ode, Projection(mask, y)), prior, 0.0),
        "projection, SDE": (Controlled(sde, Projection(mask, y)), prior, 0.0),
        "projection, predictor-corrector": (Controlled(pc, Projection(mask, y)), prior, 0.0),
        "RePaint 5, SDE": (Controlled(sde, RePaint(mask, y, repeats=5)), prior, 0.0),
        "RePaint 20, SDE": (Controlled(sde, RePaint(mask, y, repeats=20)), prior, 0.0),
    }
    x_T = prior.sde.prior_sample((count, 2), seeds=range(count), dtype=FLOAT)
    print("| method | calls | mean (exact) | spread, parts of the exact | Wasserstein distance (exact draws) |")
    print("|---|---|---|---|---|")
    for name, (solver, model, noise_std) in methods.items():
        truth, solution = exact(noise_std), solver(model, x_T, seeds=range(count))
        x = solution.x[:, 0].numpy()
        draws = truth.sample(count, 0)
        distance, floor = (wasserstein_1d(z[:, None], draws[:, None], order=1)[0] for z in (x, truth.sample(count, 1)))
        print(
            f"| {name} | {solution.nfe} | {x.mean():.3f} ({truth.mean:.3f}) | {x.std() / truth.std:.2f} | "
            f"{distance:.3f} ({floor:.3f}) |",
            flush=True,
        )


def prior_std() -> Tensor:
    """Standard deviation of the prior, per dimension."""
    mean = WEIGHTS @ MEANS
    second = (WEIGHTS[:, None] * (COVARIANCES.diagonal(dim1=1, dim2=2) + MEANS**2)).sum(0)
    return (second - mean**2).mean().sqrt()


if __name__ == "__main__":
    main()
