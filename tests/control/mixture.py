"""A mixture of three Gaussians in the plane, whose conditionals and posteriors are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.models import GaussianMixture
from score_sde.sde import SDE

FLOAT = torch.float64


@dataclass
class Mixture:
    """The data are distributed as `p_0 = sum_k w_k N(m_k, C_k)`; the components are the classes."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def model(self, sde: SDE) -> GaussianMixture:
        return GaussianMixture(sde, self.weights, self.means, self.covariances)

    def component(self, sde: SDE, k: int) -> GaussianMixture:
        return GaussianMixture(sde, torch.ones(1), self.means[k : k + 1], self.covariances[k : k + 1])

    def only(self, k: int) -> Mixture:
        return Mixture(torch.ones(1, dtype=FLOAT), self.means[k : k + 1], self.covariances[k : k + 1])

    def sample(self, count: int, seed: int, k: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        if k is not None:
            chosen = torch.full_like(chosen, k)
        noise = torch.randn(count, 2, generator=generator, dtype=FLOAT)
        return self.means[chosen] + (torch.linalg.cholesky(self.covariances)[chosen] @ noise[..., None])[..., 0]

    def posterior(self, row: Tensor, y: float, noise_std: float) -> Mixture:
        """Return the distribution of `x_0` given `row · x_0 + noise_std n = y`, which is a mixture again."""
        spread = self.covariances @ row
        variance = spread @ row + noise_std**2
        residual = y - self.means @ row
        log_weights = self.weights.log() - 0.5 * (residual**2 / variance + variance.log())
        return Mixture(
            torch.softmax(log_weights, 0),
            self.means + spread * (residual / variance)[:, None],
            self.covariances - spread[:, :, None] * spread[:, None, :] / variance[:, None, None],
        )

    def denoising_moments(self, sde: SDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """`E[x_0 | x_t = x]` `(B, 2)` and `Cov[x_0 | x_t = x]` `(B, 2, 2)`, by Bayes' rule for each component."""
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        identity = torch.eye(2, dtype=FLOAT)
        log_weights, means, covariances = [], [], []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            total = alpha**2 * covariance + sigma**2 * identity
            gain = alpha * covariance @ torch.linalg.inv(total)
            residual = x - alpha * mean
            log_weights.append(
                weight.log()
                - 0.5 * (torch.einsum("bi,ij,bj->b", residual, torch.linalg.inv(total), residual) + torch.logdet(total))
            )
            means.append(mean + residual @ gain.T)
            covariances.append(covariance - alpha * gain @ covariance)
        share = torch.softmax(torch.stack(log_weights, 1), 1)
        by_component = torch.stack(means, 1)
        mean = torch.einsum("bk,bki->bi", share, by_component)
        second = torch.stack(covariances) + by_component[:, :, :, None] * by_component[:, :, None, :]
        return mean, torch.einsum("bk,bkij->bij", share, second) - mean[:, :, None] * mean[:, None, :]

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = (self.weights[:, None] * self.means).sum(0)
        second = self.covariances + self.means[:, :, None] * self.means[:, None, :]
        return mean, (self.weights[:, None, None] * second).sum(0) - torch.outer(mean, mean)


MIXTURE = Mixture(
    weights=torch.tensor([0.5, 0.3, 0.2], dtype=FLOAT),
    means=torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -2.0]], dtype=FLOAT),
    covariances=torch.tensor(
        [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.1]], [[0.05, 0.0], [0.0, 0.4]]], dtype=FLOAT
    ),
)
