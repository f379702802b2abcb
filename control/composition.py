r"""Composition: the posterior of several independent observations, from models of each, and of the prior.

    p(theta | x_1, …, x_n)  ∝  p(theta)^{1-n} prod_i p(theta | x_i)

holds at `t = 0` alone. The diffused sum `sum_i s_i - (n - 1) s_0` of the scores of the posteriors, `s_i`, and of the
prior, `s_0`, is not the score of the diffused product: its noise is counted n times. With the covariances `S_i(t)` of
`theta_0` given `theta_t`, under each model, it is (Linhart et al. 2024, arXiv:2404.07593, equation 11; exact where all
are Gaussians)

    s = Lambda^{-1} [sum_i S_i^{-1} s_i - (n - 1) S_0^{-1} s_0],    Lambda = sum_i S_i^{-1} - (n - 1) S_0^{-1}

and so, by Tweedie's formula, are the denoised means: `D = Lambda^{-1} [sum_i S_i^{-1} D_i - (n - 1) S_0^{-1} D_0]`,
their mean weighted by precisions. The covariances come from Gaussians that stand for the models (the paper's GAUSS),

    S_i(t)^{-1} = C_i^{-1} + alpha^2 / sigma^2 I,    C_i the covariance of model i's theta_0,

or from Jacobians of the scores (JAC), `S_i(t) = sigma^2 / alpha^2 (I + sigma^2 ds_i/dtheta)`, which differ from place
to place. An observation adds to what is known: a precision `C_i^{-1}` that is below the prior's in some direction,
as an estimated one may be, is raised to it there, so that `Lambda` is positive.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.score import check_score
from score_sde.models.wrapper import ModelWrapper
from score_sde.solvers import Model

_NOT_DIFFUSED = "composed scores are those of a diffused density for Gaussians alone; the product can be measured"


class Composed(ModelWrapper):
    """Models of `p(theta | x_i)` and one of the prior are the model of `p(theta | x_1, …, x_n)`.

    Args:
        posteriors: the model given each observation, of one process.
        prior: the model of `p(theta)`, of the same process.
        covariances: the covariance of each posterior, `(n, d, d)`; together with the next.
        prior_covariance: the covariance of the prior, `(d, d)`. Without these, Jacobians of the scores are taken.

    Raises:
        UserError: there is no posterior, or covariances have other shapes, or are not positive.
    """

    no_density = _NOT_DIFFUSED

    @checked
    def __init__(
        self,
        posteriors: Sequence[Model],
        prior: Model,
        covariances: Tensor | None = None,
        prior_covariance: Tensor | None = None,
    ) -> None:
        if not len(posteriors):
            raise UserError("there is no posterior to be composed: give one for each observation")
        if (covariances is None) != (prior_covariance is None):
            raise UserError("covariances of the posteriors and that of the prior go together: give both, or none")
        for model in (*posteriors, prior):
            check_score(model, "a composition of posteriors")
        super().__init__(prior)
        self.posteriors = list(posteriors)
        self._precisions = None
        if covariances is not None and prior_covariance is not None:
            self._precisions = precisions(covariances, prior_covariance, len(posteriors))

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the composed score of states `(B, *dims)`; shape of `x`."""
        scores = torch.stack([model.score(x, t) for model in (*self.posteriors, self.model)])
        return self._weighted(scores, x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the composed denoised mean of states `(B, *dims)`; shape of `x`."""
        means = torch.stack([model.denoise(x, t) for model in (*self.posteriors, self.model)])
        return self._weighted(means, x, t)

    def _weighted(self, answers: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the mean of answers `(n + 1, B, *dims)`, of the posteriors and the prior, weighted by precisions."""
        here = self.sde.at(t)
        snr = (here.alpha / here.sigma) ** 2
        size = x.flatten(1).shape[1]
        if self._precisions is None:
            parts = self._from_jacobians(x, t)
        else:
            eye = torch.eye(size, dtype=torch.float64)
            # All are divided by 1 + snr, so that none is infinite.
            snr = snr.reshape(-1, 1, 1, 1)
            parts = ((self._precisions + snr * eye) / (1 + snr)).transpose(0, 1)
        signs = torch.ones(len(answers), dtype=torch.float64)
        signs[-1] = 1.0 - len(self.posteriors)
        signed = signs[:, None, None, None] * parts
        weights = torch.linalg.solve(signed.sum(0), signed)
        return torch.einsum("nbij,nbj->bi", weights.expand(-1, len(x), -1, -1).to(x), answers.flatten(2)).reshape(
            x.shape
        )

    def _from_jacobians(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `alpha^2 / sigma^2` less of each precision `S_i(t)^{-1}`, `(n + 1, B, d, d)`, float64, on the CPU."""
        here = self.sde.at(t)
        variance = (here.sigma**2).reshape(-1, 1, 1)
        eye = torch.eye(x.flatten(1).shape[1], dtype=torch.float64)
        shrunk = [eye + variance * jacobian(model, x, t).cpu().double() for model in (*self.posteriors, self.model)]
        found = torch.stack([torch.linalg.inv((part + part.mT) / 2) for part in shrunk])
        return torch.cat([_raised(found[:-1], found[-1]), found[-1:]])


def precisions(covariances: Tensor, prior_covariance: Tensor, count: int) -> Tensor:
    """Return precisions of `count` posteriors, none below the prior's, and then the prior's; `(n + 1, d, d)`, float64.

    Raises:
        UserError: the shapes are others, or a covariance is not positive.
    """
    size = prior_covariance.shape[-1] if prior_covariance.ndim == 2 else 0
    if prior_covariance.shape != (size, size) or covariances.shape != (count, size, size):
        raise UserError(
            f"covariances {tuple(covariances.shape)} and {tuple(prior_covariance.shape)} must have shapes "
            f"({count}, d, d) and (d, d)"
        )
    every = torch.cat([covariances.cpu().double(), prior_covariance.cpu().double()[None]])
    if not bool((torch.linalg.eigvalsh(every) > 0).all()):
        raise UserError("a covariance is not positive: there is a direction in which parameters do not vary")
    inverse = torch.linalg.inv(every)
    return torch.cat([_raised(inverse[:-1], inverse[-1]), inverse[-1:]])


def jacobian(model: Model, x: Tensor, t: Tensor) -> Tensor:
    """Return the Jacobian of a model's score at states `(B, *dims)`, `(B, d, d)`, by d Jacobian products."""
    columns = []
    for unit in torch.eye(x.flatten(1).shape[1]).to(x):
        towards = unit.reshape(1, *x.shape[1:]).expand_as(x).contiguous()
        columns.append(torch.func.jvp(lambda states: model.score(states, t), (x,), (towards,))[1].flatten(1))
    return torch.stack(columns, dim=2)


def _raised(precision: Tensor, least: Tensor) -> Tensor:
    """Return precisions `(n, …, d, d)` that are nowhere below `least` `(…, d, d)`: `least` and what is above it."""
    root = torch.linalg.cholesky(least)
    above = torch.linalg.solve_triangular(root, precision - least, upper=False)
    above = torch.linalg.solve_triangular(root, above.mT, upper=False)
    values, vectors = torch.linalg.eigh((above + above.mT) / 2)
    turned = root @ vectors
    return least + (turned * values.clamp(min=0).unsqueeze(-2)) @ turned.mT
