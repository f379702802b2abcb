"""Composed posteriors of Gaussians are exact, at every time and in what is sampled; plainly summed scores are wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.control import Composed
from score_sde.models import GaussianMixture
from score_sde.models.wrapper import ModelWrapper
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import get_solver, log_likelihood

FLOAT = torch.float64
PRIOR = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=FLOAT)
CENTRE = torch.tensor([0.4, -0.2], dtype=FLOAT)


def gaussian(sde: SDE, mean: Tensor, covariance: Tensor) -> GaussianMixture:
    return GaussianMixture(sde, torch.ones(1), mean[None], covariance[None])


def posteriors(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return means and covariances given each of observations that differ in what they tell, and given all."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count, 2, 2, generator=generator, dtype=FLOAT)
    told = rows @ rows.mT + 0.1 * torch.eye(2)
    seen = torch.randn(count, 2, generator=generator, dtype=FLOAT)
    prior = torch.linalg.inv(PRIOR)
    covariances = torch.linalg.inv(prior + told)
    means = torch.einsum("nij,nj->ni", covariances, torch.einsum("nij,nj->ni", told, seen) + prior @ CENTRE)
    together = torch.linalg.inv(prior + told.sum(0))
    return means, covariances, together @ (torch.einsum("nij,nj->i", told, seen) + prior @ CENTRE), together


@pytest.mark.parametrize("way", ["gauss", "jacobians"])
@pytest.mark.parametrize("sde", [VPSDE(), VESDE(sigma_max=10.0)], ids=["vp", "ve"])
def test_composed_gaussians_are_exact_at_every_time(sde: SDE, way: str) -> None:
    means, covariances, mean, covariance = posteriors(3)
    each = [gaussian(sde, m, c) for m, c in zip(means, covariances, strict=True)]
    known = (covariances, PRIOR) if way == "gauss" else (None, None)
    composed = Composed(each, gaussian(sde, CENTRE, PRIOR), *known)
    exact = gaussian(sde, mean, covariance)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    for t in (1e-3, 0.3, 1.0):
        for time in (torch.tensor(t, dtype=FLOAT), torch.full((5,), t, dtype=FLOAT)):
            torch.testing.assert_close(composed.score(x, time), exact.score(x, time), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(composed.denoise(x, time), exact.denoise(x, time), rtol=1e-6, atol=1e-6)


class Summed(ModelWrapper):
    """The plain sum of scores, `sum_i s_i - (n - 1) s_0`: what composition is not."""

    def __init__(self, each: list[GaussianMixture], prior: GaussianMixture) -> None:
        super().__init__(prior)
        self.each = each

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return sum(model.score(x, t) for model in self.each) - (len(self.each) - 1) * self.model.score(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        here = self.sde.at(t)
        return (x + here.sigma**2 * self.score(x, t)) / here.alpha


def test_plainly_summed_scores_have_another_precision() -> None:
    """At sigma = 1 under VE, n = 10, x_i ~ N(theta, 1), theta ~ N(0, 1): 10 / 1.5 - 9 / 2 beside 1 / (1/11 + 1)."""
    sde = VESDE()
    each = [gaussian(sde, torch.zeros(1, dtype=FLOAT), torch.full((1, 1), 0.5, dtype=FLOAT))] * 10
    prior = gaussian(sde, torch.zeros(1, dtype=FLOAT), torch.ones(1, 1, dtype=FLOAT))
    t, one = sde.time_at_log_snr(torch.tensor(0.0)), torch.ones(1, 1, dtype=FLOAT)
    composed = Composed(each, prior, torch.full((10, 1, 1), 0.5), torch.ones(1, 1))
    assert -Summed(each, prior).score(one, t).item() == pytest.approx(13 / 6, abs=1e-6)
    assert -composed.score(one, t).item() == pytest.approx(11 / 12, abs=1e-6)


def test_samples_of_composed_gaussians_have_their_mean_and_covariance() -> None:
    sde = VPSDE()
    means, covariances, mean, covariance = posteriors(10)
    each = [gaussian(sde, m, c) for m, c in zip(means, covariances, strict=True)]
    prior = gaussian(sde, CENTRE, PRIOR)
    latents = sde.prior_sample((2000, 2), seeds=range(2000), dtype=FLOAT)
    solver = get_solver("dpmpp_2m", num_steps=40)
    x = solver(Composed(each, prior, covariances, PRIOR), latents, seeds=range(2000)).x
    deviations = covariance.diagonal().sqrt()
    torch.testing.assert_close((x.mean(0) - mean) / deviations, torch.zeros(2, dtype=FLOAT), rtol=0, atol=0.08)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0.12, atol=float(covariance.max()) * 0.04)
    # Without the covariances ten observations make it far too narrow, or the solver lose its way.
    summed = torch.cov(solver(Summed(each, prior), latents, seeds=range(2000)).x.T).trace() / covariance.trace()
    assert not 0.8 < summed.item() < 1.25


def test_a_precision_below_the_priors_is_raised_to_it() -> None:
    sde = VPSDE()
    prior = gaussian(sde, torch.zeros(2, dtype=FLOAT), torch.eye(2, dtype=FLOAT))
    wide = torch.tensor([[[1.1, 0.0], [0.0, 0.5]]], dtype=FLOAT).expand(30, 2, 2)
    posterior = gaussian(sde, torch.zeros(2, dtype=FLOAT), torch.diag(torch.tensor([1.0, 0.5], dtype=FLOAT)))
    composed = Composed([posterior] * 30, prior, wide, torch.eye(2))
    t = torch.tensor(0.4, dtype=FLOAT)
    exact = gaussian(sde, torch.zeros(2, dtype=FLOAT), torch.diag(torch.tensor([1.0, 1 / 31], dtype=FLOAT)))
    x = torch.randn(4, 2, dtype=FLOAT, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(composed.score(x, t), exact.score(x, t), rtol=1e-9, atol=1e-9)


def test_what_cannot_be_composed_is_refused() -> None:
    sde = VPSDE()
    prior = gaussian(sde, torch.zeros(2, dtype=FLOAT), torch.eye(2, dtype=FLOAT))
    with pytest.raises(UserError, match="one for each observation"):
        Composed([], prior)
    with pytest.raises(UserError, match="give both, or none"):
        Composed([prior], prior, torch.eye(2)[None])
    with pytest.raises(UserError, match=r"\(2, d, d\)"):
        Composed([prior, prior], prior, torch.eye(2)[None], torch.eye(2))
    with pytest.raises(UserError, match="not positive"):
        Composed([prior], prior, torch.zeros(1, 2, 2), torch.eye(2))
    composed = Composed([prior], prior, torch.eye(2)[None], torch.eye(2))
    with pytest.raises(UserError, match="for Gaussians alone"):
        log_likelihood(composed, torch.zeros(1, 2, dtype=FLOAT))
    assert math.isfinite(composed.score(torch.ones(1, 2), torch.tensor(0.5)).sum().item())
