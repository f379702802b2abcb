"""Posterior sampling of series of 16 numbers, a mixture of six smooth Gaussians, by every linear sampler.

What is observed: half of the series (inpainting), all of it through a Gaussian filter of one step (blur), or four
random projections of it; with noise of standard deviation 0.1, of one series drawn from the mixture. The exact
posterior is a mixture again. For each method, with as many draws as were asked for: the error of the posterior mean, in
parts of the posterior's root mean square deviation; that of the covariance, relative, in the Frobenius norm; the sliced
2-Wasserstein distance to exact draws, in the same parts; beside them the same of exact draws. TDS runs with 256
particles, as often as gives these draws; its draws are of all runs, beside them is the mean error of a single run.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.control import DPS, MMPS, TDS, LinearOperator, Masked, Observation, PiGDM, blurred
from score_sde.evaluation.samples.distances import sliced_wasserstein
from score_sde.models import GaussianMixture
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver

FLOAT = torch.float64
LENGTH, COMPONENTS, NOISE_STD, PARTICLES = 16, 6, 0.1, 256


class Mixture:
    """A mixture of Gaussians is given by weights `(K,)`, means `(K, d)` and covariances `(K, d, d)`."""

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means, self.covariances = weights, means, covariances

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the covariance."""
        mean = self.weights @ self.means
        away = self.means - mean
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return mean, within + torch.einsum("k,ki,kj->ij", self.weights, away, away)

    def sample(self, count: int, seed: int) -> Tensor:
        """Draw examples `(N, d)`."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], 1, generator=generator, dtype=FLOAT)
        # A posterior's covariance may lose a digit to rounding.
        values, basis = torch.linalg.eigh(self.covariances)
        factors = basis * values.clamp(min=0).sqrt()[:, None, :]
        return self.means[chosen] + (factors[chosen] @ noise)[..., 0]

    def posterior(self, matrix: Tensor, y: Tensor) -> Mixture:
        """Return the distribution of `x` given `y = matrix x + NOISE_STD n`."""
        seen = self.covariances @ matrix.T
        total = matrix @ seen + NOISE_STD**2 * torch.eye(len(matrix), dtype=FLOAT)
        residual = y - self.means @ matrix.T
        solved = torch.linalg.solve(total, residual[..., None])[..., 0]
        log_shares = self.weights.log() - 0.5 * ((residual * solved).sum(1) + torch.logdet(total))
        return Mixture(
            torch.softmax(log_shares, 0),
            self.means + torch.einsum("kij,kj->ki", seen, solved),
            self.covariances - seen @ torch.linalg.solve(total, seen.mT),
        )


def prior() -> Mixture:
    """Return six smooth Gaussians, of correlation lengths from one to three steps."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(LENGTH, dtype=FLOAT)
    apart = (place[:, None] - place).abs()
    phase = 2 * math.pi * torch.rand(COMPONENTS, 1, generator=generator, dtype=FLOAT)
    means = 0.8 * torch.sin(
        2 * math.pi * place / LENGTH * torch.tensor([[1.0], [1.0], [2.0], [2.0], [3.0], [0.0]]) + phase
    )
    covariances = torch.stack([0.1 * torch.exp(-apart / length) for length in (1.0, 1.0, 2.0, 2.0, 3.0, 3.0)])
    return Mixture(torch.full((COMPONENTS,), 1 / COMPONENTS, dtype=FLOAT), means, covariances)


def operators() -> dict[str, LinearOperator]:
    """Return what is observed of series `(B, 1, 16)`."""
    rows = torch.randn(4, LENGTH, generator=torch.Generator().manual_seed(1), dtype=FLOAT) / 4
    return {
        "inpainting": Masked(torch.arange(LENGTH) < LENGTH // 2),
        "blur": blurred(1.0),
        "projection": LinearOperator(lambda x: x.flatten(1) @ rows.T),
    }


def compare(count: int, num_steps: int) -> None:
    """Print a table for each operator, a row for each method."""
    mixture = prior()
    model = GaussianMixture(VPSDE(), mixture.weights, mixture.means, mixture.covariances)
    data_std = float(mixture.moments()[1].diagonal().mean().sqrt())
    sde, runs = get_solver("dpmpp_2s_sde", num_steps=num_steps), max(count // PARTICLES, 1)
    x_T = model.sde.prior_sample((count, 1, LENGTH), seeds=range(count), dtype=FLOAT)
    for problem, (name, operator) in enumerate(operators().items()):
        matrix = operator(torch.eye(LENGTH, dtype=FLOAT)[:, None]).flatten(1).T
        noise = torch.randn(len(matrix), generator=torch.Generator().manual_seed(problem), dtype=FLOAT)
        hidden = matrix.abs().sum(1) == 0
        y = matrix @ mixture.sample(1, 7 + problem)[0] + NOISE_STD * noise.masked_fill(hidden, 0)
        truth = mixture.posterior(matrix[~hidden], y[~hidden])
        mean, covariance = truth.moments()
        scale = float(covariance.diagonal().mean().sqrt())
        exact = truth.sample(count, 0)
        shape = operator(torch.zeros(1, 1, LENGTH, dtype=FLOAT)).shape[1:]

        def observed(
            number: int, y: Tensor = y, shape: torch.Size = shape, a: LinearOperator = operator
        ) -> Observation:
            return Observation(a, y.reshape(1, *shape).expand(number, *shape), NOISE_STD)

        def row(
            method: str,
            calls: int | str,
            x: Tensor,
            single: str = "",
            scale: float = scale,
            moments: tuple[Tensor, Tensor] = (mean, covariance),
            exact: Tensor = exact,
        ) -> None:
            off = float((x.mean(0) - moments[0]).square().mean().sqrt()) / scale
            wrong = float((torch.cov(x.T) - moments[1]).norm() / moments[1].norm())
            distance = sliced_wasserstein(x.numpy(), exact.numpy()) / scale
            print(f"| {method} | {calls} | {off:.3f}{single} | {wrong:.3f} | {distance:.3f} |", flush=True)

        print(f"\n| {name}: method | calls | error of the mean | of the covariance | sliced Wasserstein |")
        print("|---|---|---|---|---|")
        row("exact draws", "", truth.sample(count, 1))
        methods: dict[str, Callable[[], DPS | PiGDM | MMPS]] = {
            "DPS": lambda: DPS(model, observed(count)),
            "ΠGDM": lambda: PiGDM(model, observed(count), data_std=data_std),
            "MMPS, 1 iteration": lambda: MMPS(model, observed(count), iterations=1),
            "MMPS, 5 iterations": lambda: MMPS(model, observed(count), iterations=5),
            "MMPS, 20 iterations": lambda: MMPS(model, observed(count), iterations=20),
        }
        for method, control in methods.items():
            solution = sde(control(), x_T, seeds=range(count))
            row(method, solution.nfe, solution.x.flatten(1))
        for steps in (num_steps, 2 * num_steps - 1):
            tds = TDS(num_steps=steps, num_particles=PARTICLES, data_std=data_std)
            particles = tds(model, observed(runs), (1, LENGTH), seeds=range(runs))
            chosen = torch.multinomial(
                particles.weights, PARTICLES, replacement=True, generator=torch.Generator().manual_seed(0)
            )
            x = torch.cat([particles.x[run, chosen[run]] for run in range(runs)]).flatten(1)
            off = (particles.mean.flatten(1) - mean).square().mean(1).sqrt().mean() / scale
            row(f"TDS, {PARTICLES} particles", particles.nfe, x, f" (one run {off:.3f})")
