r"""The density of a picture is that of its cascade, `log p(x) = log p(low) + log p(high | low)`, in a Haar basis.

Of a picture `x` the orthonormal Haar transform makes means over areas of 2 x 2, times 2, and details, three for each:
`|det| = 1`, so that densities of `x` and of `(low, high)` are equal. Where `x` is a mixture of Gaussians, so are
`low`, and `high` given `low`: their scores are exact, and three likelihoods by the flow, of 12, 3 and 1 dimensions, add
up to the density of the whole.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from score_sde.common.condition import Condition
from score_sde.data.low_resolution import smaller
from score_sde.models import GaussianMixture, Given
from score_sde.sde import SDE, VPSDE
from score_sde.solvers import log_likelihood

SIZE, ROWS = 4, 3
TIGHT: dict[str, Any] = {"divergence": "exact", "method": "dopri5", "rtol": 1e-8, "atol": 1e-8, "t_min": 1e-8}


class ConditionalMixture:
    """The details `high` of a mixture over `(low, high)` are a mixture given `low`, another one for each example.

    Its components are `N(m_h + C_hl C_ll^{-1} (low - m_l), C_hh - C_hl C_ll^{-1} C_lh)`, with weights in proportion to
    `w_k N(low; m_l, C_ll)`.
    """

    def __init__(self, sde: SDE, weights: Tensor, means: Tensor, covariances: Tensor, size: int) -> None:
        self.sde, self.log_weights, self.size = sde, weights.log(), size
        self.of_low, self.of_high = means.split((size, means.shape[1] - size), 1)
        self.c_ll, c_hl = covariances[:, :size, :size], covariances[:, size:, :size]
        self.gain = c_hl @ torch.linalg.inv(self.c_ll)
        self.covariances = covariances[:, size:, size:] - self.gain @ c_hl.mT

    def score(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return `∇ log p_t(high | low)`, each at its own time."""
        log_joint, solved = self._components(x, t, condition.values["low"])
        return -(torch.softmax(log_joint, 1)[..., None] * solved).sum(1)

    def log_prob(self, x: Tensor, t: float, low: Tensor) -> Tensor:
        """Return `log p_t(high | low)`, exact."""
        return torch.logsumexp(self._components(x, torch.tensor(t, dtype=torch.float64), low)[0], 1)

    def _components(self, x: Tensor, t: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Return log joints `(B, K)`, and `C^{-1} (x - m)` of each component at `t`, `(B, K, d)`."""
        away = low[:, None] - self.of_low
        log_weights = self.log_weights + MultivariateNormal(torch.zeros(self.size).double(), self.c_ll).log_prob(away)
        alpha, sigma = self.sde.alpha(t).reshape(-1, 1, 1), self.sde.sigma(t).reshape(-1, 1, 1, 1)
        means = alpha * (self.of_high + torch.einsum("khl,bkl->bkh", self.gain, away))
        covariances = alpha[..., None] ** 2 * self.covariances + sigma**2 * torch.eye(x.shape[1], dtype=torch.float64)
        residual = x[:, None] - means
        solved = torch.linalg.solve(covariances, residual[..., None])[..., 0]
        log_det = torch.linalg.slogdet(covariances).logabsdet
        log_normal = -0.5 * ((residual * solved).sum(-1) + log_det + x.shape[1] * math.log(2 * math.pi))
        return torch.log_softmax(log_weights, 1) + log_normal, solved


def haar(size: int) -> Tensor:
    """Return the matrix that takes pictures `(size, size)`, row by row, to means, times 2, and then details."""
    eye = torch.eye(size // 2, dtype=torch.float64)
    one, other = (torch.kron(eye, torch.tensor([[1.0, sign]], dtype=torch.float64)) / 2**0.5 for sign in (1.0, -1.0))
    return torch.cat([torch.kron(a, b) for a in (one, other) for b in (one, other)])


def mixture() -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, means and covariances of pictures of 4 x 4."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(ROWS, SIZE**2, SIZE**2, generator=generator, dtype=torch.float64) / SIZE
    means = torch.randn(ROWS, SIZE**2, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return weights, means, 0.3 * root @ root.mT + 0.1 * torch.eye(SIZE**2, dtype=torch.float64)


def test_the_stages_of_a_cascade_add_up_to_the_whole() -> None:
    sde, (weights, means, covariances) = VPSDE(), mixture()
    whole = GaussianMixture(sde, weights, means, covariances)
    factor = torch.linalg.cholesky(covariances)
    generator = torch.Generator().manual_seed(2)
    normal = torch.randn(ROWS, SIZE**2, generator=generator, dtype=torch.float64)
    x = means + torch.einsum("kij,kj->ki", factor, normal)
    zero, total = torch.zeros((), dtype=torch.float64), torch.zeros(ROWS, dtype=torch.float64)
    exact = whole.log_prob(x, zero)
    picture, size = x, SIZE
    while size > 1:
        basis = haar(size)
        torch.testing.assert_close(basis @ basis.T, torch.eye(size**2, dtype=torch.float64))
        means, covariances = means @ basis.T, basis @ covariances @ basis.T
        low, high = (picture @ basis.T).split((size**2 // 4, 3 * size**2 // 4), 1)
        # The means are those that a cascade is told.
        told = smaller(picture.reshape(ROWS, 1, size, size), (1, size // 2, size // 2))
        torch.testing.assert_close(2 * told.flatten(1).double(), low, rtol=0, atol=1e-6)
        of_high = ConditionalMixture(sde, weights, means, covariances, size**2 // 4)
        stage = Given(of_high, Condition({"low": low}))
        at_end = partial(of_high.log_prob, low=low, t=sde.T)
        measured = log_likelihood(stage, high, prior=at_end, **TIGHT).log_prob
        torch.testing.assert_close(measured, of_high.log_prob(high, 0.0, low), rtol=0, atol=1e-6)
        total += measured
        size, picture = size // 2, low
        means, covariances = means[:, : size**2], covariances[:, : size**2, : size**2]
    lowest = GaussianMixture(sde, weights, means, covariances)
    at_end = partial(lowest.log_prob, t=torch.tensor(sde.T, dtype=torch.float64))
    total += log_likelihood(lowest, picture, prior=at_end, **TIGHT).log_prob
    torch.testing.assert_close(total, exact, rtol=0, atol=1e-6)
