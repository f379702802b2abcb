"""Fixtures for solver tests: a counting model, exact Gaussian moments of a solver's output, quick noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from score_sde.common.noise import SampleNoise
from score_sde.models import GaussianMixture
from score_sde.solvers import Model, Solution

FLOAT = torch.float64


@dataclass
class CountingModel:
    """Passes calls on and writes down their times."""

    model: Model
    times: list[Tensor] = field(default_factory=list)

    @property
    def sde(self):
        return self.model.sde

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        return self.model.score(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        return self.model.denoise(x, t)

    def lies_inside(self, t_min: float) -> bool:
        return all(bool((t >= t_min).all() and (t <= self.sde.T).all()) for t in self.times)


@pytest.fixture
def counting() -> Callable[[Model], CountingModel]:
    return CountingModel


@pytest.fixture
def affine_moments(monkeypatch) -> Callable[..., tuple[Tensor, Tensor]]:
    """Exact mean and variance of what a solver makes of Gaussian latents, for a model with a linear, diagonal score.

    The solver's output is then `A x_T + b + sum_k C_k z_k`, with `z_k` its k-th draw of noise. One run of the solver
    itself gives all coefficients: row 0 starts at zero, row 1 at one, and row 2 + k sees noise one at the k-th draw.
    """

    def moments(solver: Callable[..., Solution], model: Model, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        draws = 0

        def scripted(self: SampleNoise, like: Tensor) -> Tensor:
            nonlocal draws
            z = torch.zeros_like(like)
            z[2 + draws : 3 + draws] = 1
            draws += 1
            return z

        with monkeypatch.context() as patch:
            patch.setattr(SampleNoise, "normal", scripted)
            solver(model, torch.zeros(2, len(mean), dtype=FLOAT), seeds=[0, 0])
            num_draws, draws = draws, 0
            x_T = torch.zeros(2 + num_draws, len(mean), dtype=FLOAT)
            x_T[1] = 1
            x = solver(model, x_T, seeds=[0] * len(x_T)).x
        assert draws == num_draws > 0
        offset, gain, noise = x[0], x[1] - x[0], x[2:] - x[0]
        return gain * mean + offset, gain**2 * variance + noise.square().sum(0)

    return moments


@dataclass
class Mixture:
    """Three Gaussians in the plane, with their exact mean and covariance."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def model(self, sde) -> GaussianMixture:
        return GaussianMixture(sde, self.weights, self.means, self.covariances)

    def sample(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, generator=generator, dtype=FLOAT)
        return self.means[component] + (torch.linalg.cholesky(self.covariances)[component] @ noise[..., None])[..., 0]

    def latents(self, sde, count: int) -> Tensor:
        """Samples of `p_T`."""
        x_0, T = self.sample(count), torch.tensor(sde.T, dtype=FLOAT)
        noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2), dtype=FLOAT)
        return sde.perturb(x_0, noise, T)

    def largest_deviation(self, x: Tensor) -> float:
        """The largest deviation of the mean and covariance of `x` `(N, 2)` from the exact ones, in standard errors."""
        mean = (self.weights[:, None] * self.means).sum(0)
        second = self.covariances + self.means[:, :, None] * self.means[:, None, :]
        covariance = (self.weights[:, None, None] * second).sum(0) - torch.outer(mean, mean)
        centred = x - mean
        products = centred[:, :, None] * centred[:, None, :]
        of_mean = centred.mean(0) / (centred.std(0) / len(x) ** 0.5)
        of_covariance = (products.mean(0) - covariance) / (products.std(0) / len(x) ** 0.5)
        return max(float(of_mean.abs().max()), float(of_covariance.abs().max()))


@pytest.fixture
def mixture() -> Mixture:
    return Mixture(
        weights=torch.tensor([0.5, 0.3, 0.2], dtype=FLOAT),
        means=torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -2.0]], dtype=FLOAT),
        covariances=torch.tensor(
            [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.1]], [[0.05, 0.0], [0.0, 0.4]]], dtype=FLOAT
        ),
    )


@dataclass
class Gaussian:
    """One Gaussian with a diagonal covariance, and its moments at every time."""

    mean: Tensor
    variance: Tensor

    def model(self, sde) -> GaussianMixture:
        return GaussianMixture(sde, torch.ones(1, dtype=FLOAT), self.mean[None], torch.diag(self.variance)[None])

    def moments(self, sde, t: float) -> tuple[Tensor, Tensor]:
        time = torch.tensor(t, dtype=FLOAT)
        alpha, sigma = sde.alpha(time), sde.sigma(time)
        return alpha * self.mean, alpha**2 * self.variance + sigma**2


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian(mean=torch.tensor([1.0, -0.5], dtype=FLOAT), variance=torch.tensor([0.05, 3.0], dtype=FLOAT))
