r"""The exact model of a part of a Gaussian mixture's numbers given another: `p(x_m | x_g)`, which is a mixture, too.

Of each component `N(m_k, C_k)`, in blocks of what is modelled and what is given (what is absent is left out),

    x_m | x_g ~ N(m_m + C_mg C_gg^{-1} (x_g - m_g),  C_mm - C_mg C_gg^{-1} C_gm),      weight ~ w_k N(x_g; m_g, C_gg)

Every example has blocks of its own. Matrices keep their size: where a number is not of the block, they are the
identity's.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from score_sde.common.condition import Rows
from score_sde.common.part import Part
from score_sde.models.gaussian_mixture import GaussianMixture
from score_sde.models.inputs import states_and_times


class MixturePart:
    """Each example has a mixture of its own, `p(x_m | x_g)` of the whole mixture; what is not modelled is N(0, 1).

    Args:
        mixture: the mixture of whole examples.
        part: what is modelled and given of each example, `(B, *dims)`.

    Attributes:
        sde: the forward process.
        log_weights: of each example's components, `(B, K)`, float64.
        means: likewise, `(B, K, d)`.
        covariances: likewise, `(B, K, d, d)`.
        log_prob_given: the log-density of what is given of each example, `(B,)`, in nats.
    """

    def __init__(self, mixture: GaussianMixture, part: Part) -> None:
        self.sde = mixture.sde
        given, modelled = (mask.flatten(1)[:, None].cpu().double() for mask in (part.given, part.modelled))
        whole = torch.einsum("kij,kj,klj->kil", mixture.basis, mixture.eigenvalues, mixture.basis)
        of_given = _block(whole, given, given) + torch.diag_embed(1 - given)
        factor = torch.linalg.cholesky(of_given)
        away = given * (part.values.flatten(1)[:, None].cpu().double() - mixture.means)
        across = _block(whole, given, modelled)
        solved = torch.cholesky_solve(torch.cat([away[..., None], across], -1), factor)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_given = mixture.log_weights - 0.5 * (
            (away * solved[..., 0]).sum(-1) + log_det + given.sum(-1) * math.log(2 * math.pi)
        )
        self.log_weights = torch.log_softmax(log_given, dim=1)
        self.log_prob_given = torch.logsumexp(log_given, dim=1)
        self.means = modelled * mixture.means + torch.einsum("bkij,bki->bkj", solved[..., 1:], away)
        self.covariances = (
            _block(whole, modelled, modelled) - across.mT @ solved[..., 1:] + torch.diag_embed(1 - modelled)
        )
        self.eigenvalues, self.basis = torch.linalg.eigh(self.covariances)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the log-density at `x` `(B, *dims)` of `p_t(x_m | x_g)` and of the rest; `(B,)`, in nats."""
        return torch.logsumexp(self._components(x, t)[0], dim=1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x_m | x_g)`; shape of `x`."""
        log_joint, whitened, variance = self._components(x, t)
        in_basis = -torch.softmax(log_joint, dim=1).unsqueeze(-1) * whitened / variance
        return torch.einsum("bkj,bkij->bi", in_basis, self.basis.to(x)).reshape(x.shape)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x, x_g]`; shape of `x`."""
        log_joint, whitened, variance = self._components(x, t)
        share = torch.softmax(log_joint, dim=1).unsqueeze(-1)
        gain = self.sde.at(t).alpha.to(x).reshape(-1, 1, 1) * self.eigenvalues.to(x).clamp(min=0) / variance
        shift = torch.einsum("bkj,bkij->bi", share * gain * whitened, self.basis.to(x))
        return ((share * self.means.to(x)).sum(1) + shift).reshape(x.shape)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[eps | x_t = x, x_g]`; shape of `x`."""
        return -self.sde.expand(self.sde.at(t).sigma, x) * self.score(x, t)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean `(B, d)` and covariance `(B, d, d)` of `x_m | x_g`."""
        share = self.log_weights.exp()
        mean = torch.einsum("bk,bki->bi", share, self.means)
        away = self.means - mean[:, None]
        spread = torch.einsum("bki,bkj->bkij", away, away)
        return mean, torch.einsum("bk,bkij->bij", share, self.covariances + spread)

    def rows(self, rows: Rows) -> MixturePart:
        """Return the mixtures of these examples."""
        part = copy.copy(self)
        for name in ("log_prob_given", "log_weights", "means", "covariances", "eigenvalues", "basis"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log joints `(B, K)`, and in each eigenbasis residuals and variances `(B, K, d)`."""
        x, t = states_and_times(self.sde, x, t)
        here = self.sde.at(t)
        alpha, sigma = (value.to(x).reshape(-1, 1, 1) for value in (here.alpha, here.sigma))
        variance = alpha**2 * self.eigenvalues.to(x).clamp(min=0) + sigma**2
        whitened = torch.einsum("bki,bkij->bkj", x.flatten(1)[:, None] - alpha * self.means.to(x), self.basis.to(x))
        log_det = torch.log(variance).sum(-1) + x[0].numel() * math.log(2 * math.pi)
        return self.log_weights.to(x) - 0.5 * ((whitened**2 / variance).sum(-1) + log_det), whitened, variance


def _block(matrices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the matrices `(K, d, d)` of each example, 0 but for these rows and columns, `(B, 1, d)`."""
    return rows[..., :, None] * matrices * columns[..., None, :]
