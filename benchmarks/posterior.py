"""Posterior sampling where the posterior is known: `python -m benchmarks.posterior`.

Two priors in the plane, of which the second coordinate is observed, with noise of standard deviation 0.2 (DPS, ΠGDM,
MMPS, TDS) or without (projection, RePaint): a mixture of three Gaussians, and one Gaussian whose coordinates are
correlated by 0.8, observed at 1.5 of its deviations. For each method: the mean of the other coordinate, its standard
deviation as a part of the exact one, and its Wasserstein distance to draws from the exact posterior; beside it that of
two sets of such draws. Then series of 16 numbers, at half the draws and a quarter of the steps
(`benchmarks.posterior_series`).
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import posterior_series
from score_sde.control import DPS, MMPS, Controlled, Masked, Observation, PiGDM, Projection, RePaint
from score_sde.control.inverse_problems import answer
from score_sde.evaluation.samples.distances import wasserstein_1d
from score_sde.models import GaussianMixture
from score_sde.sde import VPSDE
from score_sde.solvers import Model, get_solver
from score_sde.solvers.base import Solver

FLOAT = torch.float64
NOISE_STD = 0.2


class Problem(NamedTuple):
    """A mixture in the plane is given, and its second coordinate as it was observed."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    observed: float

    @property
    def std(self) -> float:
        """The prior's standard deviation is that per dimension."""
        mean = self.weights @ self.means
        second = (self.weights[:, None] * (self.covariances.diagonal(dim1=1, dim2=2) + self.means**2)).sum(0)
        return float((second - mean**2).mean().sqrt())

    def posterior(self, noise_std: float) -> Posterior:
        """Return the posterior of the first coordinate, exactly."""
        variance = self.covariances[:, 1, 1] + noise_std**2
        residual, gain = self.observed - self.means[:, 1], self.covariances[:, 0, 1] / variance
        log_shares = self.weights.log() - 0.5 * (residual**2 / variance + variance.log())
        return Posterior(
            torch.softmax(log_shares, 0),
            self.means[:, 0] + gain * residual,
            self.covariances[:, 0, 0] - gain * self.covariances[:, 0, 1],
        )


class Posterior(NamedTuple):
    """A mixture on a line has shares, means and variances of its components."""

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


PROBLEMS = {
    "mixture": Problem(
        torch.tensor([0.5, 0.3, 0.2], dtype=FLOAT),
        torch.tensor([[1.0, 0.4], [-1.0, 0.0], [0.0, -1.0]], dtype=FLOAT),
        torch.tensor(
            [[[0.2, 0.12], [0.12, 0.15]], [[0.15, -0.1], [-0.1, 0.15]], [[0.1, 0.0], [0.0, 0.2]]], dtype=FLOAT
        ),
        0.3,
    ),
    "Gaussian": Problem(
        torch.ones(1, dtype=FLOAT),
        torch.zeros(1, 2, dtype=FLOAT),
        torch.tensor([[[1.0, 0.8], [0.8, 1.0]]], dtype=FLOAT),
        1.5,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    for name, problem in PROBLEMS.items():
        print(f"\n| {name}: method | calls | mean (exact) | spread, parts of the exact | distance (exact draws) |")
        print("|---|---|---|---|---|")
        compare(problem, arguments.samples, arguments.steps)
    posterior_series.compare(arguments.samples // 2, arguments.steps // 4)


def compare(problem: Problem, count: int, num_steps: int) -> None:
    """Print a row for each method."""
    prior = GaussianMixture(VPSDE(), problem.weights, problem.means, problem.covariances)
    mask = Masked(torch.tensor([False, True]))
    y = torch.tensor([[0.0, problem.observed]], dtype=FLOAT).expand(count, 2)
    ode = get_solver("dpmpp_2s", num_steps=num_steps)
    sde = get_solver("dpmpp_2s_sde", num_steps=num_steps)
    pc = get_solver("pc", num_steps=num_steps)
    observation = Observation(mask, y, NOISE_STD)
    dps, pi_gdm = DPS(prior, observation), PiGDM(prior, observation, data_std=problem.std)
    mmps = MMPS(prior, observation)
    particle = answer("tds", sde, prior, observation, data_std=problem.std, num_particles=16, num_steps=2 * num_steps)
    methods: dict[str, tuple[Solver, Model, float]] = {
        "DPS, ODE": (ode, dps, NOISE_STD),
        "DPS, SDE": (sde, dps, NOISE_STD),
        "ΠGDM, ODE": (ode, pi_gdm, NOISE_STD),
        "ΠGDM, SDE": (sde, pi_gdm, NOISE_STD),
        "MMPS, ODE": (ode, mmps, NOISE_STD),
        "MMPS, SDE": (sde, mmps, NOISE_STD),
        "TDS, one of 16 particles": (*particle, NOISE_STD),
        "projection, ODE": (Controlled(ode, Projection(mask, y)), prior, 0.0),
        "projection, SDE": (Controlled(sde, Projection(mask, y)), prior, 0.0),
        "projection, predictor-corrector": (Controlled(pc, Projection(mask, y)), prior, 0.0),
        "RePaint, 5 repeats, SDE": (Controlled(sde, RePaint(mask, y, repeats=5)), prior, 0.0),
        "RePaint, 20 repeats, SDE": (Controlled(sde, RePaint(mask, y, repeats=20)), prior, 0.0),
    }
    x_T = prior.sde.prior_sample((count, 2), seeds=range(count), dtype=FLOAT)
    for name, (solver, model, noise_std) in methods.items():
        truth, solution = problem.posterior(noise_std), solver(model, x_T, seeds=range(count))
        x, draws = solution.x[:, 0].numpy(), truth.sample(count, 0)
        distance, floor = (wasserstein_1d(z[:, None], draws[:, None], order=1)[0] for z in (x, truth.sample(count, 1)))
        print(
            f"| {name} | {solution.nfe} | {x.mean():.3f} ({truth.mean:.3f}) | {x.std() / truth.std:.2f} | "
            f"{distance:.3f} ({floor:.3f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
