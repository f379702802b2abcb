"""A mixture of Gaussians under a forward process: the score and density are known exactly at every time.

Data `p_0 = sum_k w_k N(m_k, C_k)` give

    p_t = sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I)
    score(x, t)   = -sum_k r_k(x, t) (alpha^2 C_k + sigma^2 I)^{-1} (x - alpha m_k)
    denoise(x, t) = E[x_0 | x_t = x] = (x + sigma^2 score) / alpha        (Tweedie)

with `r_k` the posterior probabilities of the components. `C_k = U_k diag(l_k) U_k^T` is diagonalised once; at time
`t` only its eigenvalues change. This is the ground truth against which solvers and likelihoods are checked.

A Gaussian mixture fitted to data: a model with an exact score that needs no training.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.gaussian import Gaussian, gaussian_of
from score_sde.common.posterior import Posterior
from score_sde.models.inputs import states_and_times
from score_sde.sde import SDE

# Rounding, to float32 say, may make a covariance asymmetric by so much, relative to its largest entry.
_ASYMMETRY = 1e-5


class GaussianMixture(nn.Module):
    """A Gaussian mixture knows its score, denoised mean and log-density exactly at every time of an SDE.

    States of shape `(B, *dims)` are flattened to `d` numbers an example; results have the state's shape and dtype.
    NumPy arrays become tensors (`models.inputs`).

    Args:
        sde: the forward process.
        weights: shares of the components, not negative, shape `(K,)`; normalised to sum to 1.
        means: means of the components, shape `(K, d)`.
        covariances: covariances of the components, symmetric, positive semidefinite, shape `(K, d, d)`.

    Raises:
        UserError: shapes do not agree, weights are negative or all 0, a number is not finite, or a covariance is not
            symmetric or has a negative eigenvalue; when called: `x` or `t` has the wrong shape.
    """

    @checked
    def __init__(self, sde: SDE, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        components, dimension = means.shape if means.ndim == 2 else (0, 0)
        if (
            not components * dimension
            or weights.shape != (components,)
            or covariances.shape != (components, dimension, dimension)
        ):
            raise UserError(
                f"weights {tuple(weights.shape)}, means {tuple(means.shape)} and "
                f"covariances {tuple(covariances.shape)} must have shapes (K,), (K, d) and (K, d, d)"
            )
        for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
            if value.is_complex() or value.dtype == torch.bool or not bool(value.isfinite().all()):
                raise UserError(f"the {name} of a mixture must be real, finite numbers")
        if bool((weights < 0).any()) or not bool(weights.sum() > 0):
            raise UserError(f"weights must not be negative, nor all 0, unlike {weights.tolist()[:5]}")
        asymmetry = (covariances - covariances.mT).abs().max()
        if bool(asymmetry > _ASYMMETRY * covariances.abs().max()):
            raise UserError(
                f"a covariance is not symmetric: two entries that should be alike differ by {asymmetry:.3g}"
            )
        eigenvalues, basis = torch.linalg.eigh(covariances.double())
        if eigenvalues.min() < -1e-8 * eigenvalues.abs().max():
            raise UserError(f"a covariance has the negative eigenvalue {eigenvalues.min():.3g}")
        self.sde = sde
        self.register_buffer("log_weights", torch.log(weights.double() / weights.double().sum()))
        self.register_buffer("means", means.double())
        self.register_buffer("eigenvalues", eigenvalues.clamp(min=0))
        self.register_buffer("basis", basis)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GaussianMixture:
        """Leave the mixture as and where it is: float64, which not every device has, is cast when used."""
        return self

    log_weights: Tensor
    means: Tensor
    eigenvalues: Tensor
    basis: Tensor

    @cached_property
    def gaussian(self) -> Gaussian:
        """The Gaussian that the data look like has the mixture's mean and covariance."""
        weights = self.log_weights.exp()
        mean = weights @ self.means
        away = self.means - mean
        within = torch.einsum("k,kij,kj,klj->il", weights, self.basis, self.eigenvalues, self.basis)
        return gaussian_of(mean, within + torch.einsum("k,ki,kj->ij", weights, away, away))

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the log-density of `p_t` at `x` `(B, *dims)`, in nats; shape `(B,)`."""
        x, t = states_and_times(self.sde, x, t)
        log_joint, _, _ = self._components(x, t)
        return torch.logsumexp(log_joint, dim=1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x)`; shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        log_joint, whitened, variance = self._components(x, t)
        posterior = torch.softmax(log_joint, dim=1)
        in_basis = -posterior.unsqueeze(-1) * whitened / variance
        return torch.einsum("bkj,kij->bi", in_basis, self.basis.to(x)).reshape(x.shape)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x]`, shape of `x`, from the components: Tweedie's formula cancels at small `alpha`."""
        x, t = states_and_times(self.sde, x, t)
        log_joint, whitened, variance = self._components(x, t)
        posterior = torch.softmax(log_joint, dim=1)
        gain = self._per_component(self.sde.at(t).alpha, x) * self.eigenvalues.to(x) / variance
        shift = torch.einsum("bkj,kij->bi", posterior.unsqueeze(-1) * gain * whitened, self.basis.to(x))
        return (posterior @ self.means.to(x) + shift).reshape(x.shape)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return the mean and the variance of `x_0 | x_t = x`, which is a mixture again, of the same components.

        That of component `k` has mean `m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^{-1} (x - alpha m_k)` and covariance
        `sigma^2 C_k (alpha^2 C_k + sigma^2 I)^{-1}`; what their means differ by is added to the mean of the variances.
        """
        x, t = states_and_times(self.sde, x, t)
        log_joint, whitened, variance = self._components(x, t)
        share, basis = torch.softmax(log_joint, dim=1).unsqueeze(-1), self.basis.to(x.dtype)
        alpha, sigma = self._per_component(self.sde.alpha(t), x), self._per_component(self.sde.sigma(t), x)
        spread = self.eigenvalues.to(x.dtype) / variance
        means = self.means.to(x.dtype) + torch.einsum("bkj,kij->bki", alpha * spread * whitened, basis)
        variances = torch.einsum("bkj,kij->bki", sigma**2 * spread, basis**2)
        mean = self.denoise(x, t)
        deviations = means - mean.flatten(1).unsqueeze(1)
        return Posterior(mean, (share * (variances + deviations**2)).sum(1).reshape(x.shape))

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log joints `(B, K)`, and in each eigenbasis residuals `(B, K, d)` and variances `(B or 1, K, d)`."""
        dimension = x.flatten(1).shape[1]
        if dimension != self.means.shape[1]:
            raise UserError(
                f"x of shape {tuple(x.shape)} has {dimension} numbers an example; this mixture has "
                f"{self.means.shape[1]} dimensions"
            )
        here = self.sde.at(t)
        alpha, sigma = self._per_component(here.alpha, x), self._per_component(here.sigma, x)
        variance = alpha**2 * self.eigenvalues.to(x) + sigma**2
        residual = x.flatten(1).unsqueeze(1) - alpha * self.means.to(x)
        whitened = torch.einsum("bki,kij->bkj", residual, self.basis.to(x))
        mahalanobis = (whitened**2 / variance).sum(-1)
        log_normaliser = torch.log(variance).sum(-1) + self.means.shape[1] * math.log(2 * math.pi)
        return self.log_weights.to(x) - 0.5 * (mahalanobis + log_normaliser), whitened, variance

    @staticmethod
    def _per_component(value: Tensor, x: Tensor) -> Tensor:
        """Return a schedule's value of shape `()` or `(B,)`, cast to `x`'s dtype and device, `(1 or B, 1, 1)`."""
        return value.to(x).reshape(-1, 1, 1)


def fit_mixture(sde: SDE, data: Tensor, num_components: int, seed: int = 0) -> GaussianMixture:
    """Fit a mixture by expectation-maximisation, with full covariances, from k-means.

    Args:
        sde: the forward process.
        data: examples `(N, *dims)` in model units. Quantised data are dequantised first: levels alone have singular
            covariances.
        num_components: number of Gaussians.
        seed: seed of the initial k-means.

    Raises:
        UserError: a component has fewer examples than a covariance takes, as where many are alike.
    """
    from sklearn import mixture
    from sklearn.exceptions import ConvergenceWarning

    flat = data.double().flatten(1).cpu().numpy()
    try:
        with warnings.catch_warnings():
            # Before it converges, or of examples that are alike, it is a mixture all the same, and its score exact.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = mixture.GaussianMixture(num_components, random_state=seed).fit(flat)
    except ValueError as error:
        raise UserError(f"{num_components} Gaussians cannot be fitted to {len(flat)} examples: take fewer") from error
    weights, means, covariances = (
        torch.from_numpy(array) for array in (fitted.weights_, fitted.means_, fitted.covariances_)
    )
    return GaussianMixture(sde, weights, means, covariances)
