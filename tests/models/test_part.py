"""Parts of exact mixtures: densities of what is observed, and what is missing given it, against block formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.part import Part, missing, observed
from score_sde.models import GaussianMixture, part_of, rows_of
from score_sde.models.mixture_part import MixturePart
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import get_solver, log_likelihood, matched_prior

FLOAT, D = torch.float64, 10
# Little of the data is left at T, so that the standard prior is exact.
VP, VE = VPSDE(beta_max=45.0), VESDE(sigma_max=3000.0)
# The shares of an example's numbers that are missing, and the numbers that are then observed.
OBSERVED = {0.1: 9, 0.5: 5, 0.9: 1}


def mixture(sde: SDE) -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(3, D, D, dtype=FLOAT, generator=generator)
    means = torch.randn(3, D, dtype=FLOAT, generator=generator)
    covariances = 0.05 * factors @ factors.mT + 0.1 * torch.eye(D, dtype=FLOAT)
    return GaussianMixture(sde, torch.tensor([0.5, 0.3, 0.2]), means, covariances)


def covariances_of(model: GaussianMixture) -> np.ndarray:
    return (model.basis @ torch.diag_embed(model.eigenvalues) @ model.basis.mT).numpy()


def with_gaps(count: int, known: int, seed: int = 2) -> torch.Tensor:
    """Return examples of the mixture of which so many numbers are observed, others in each."""
    generator, model = torch.Generator().manual_seed(seed), mixture(VP)
    which = torch.arange(count) % 3
    x = torch.randn(count, D, dtype=FLOAT, generator=generator) * model.eigenvalues[which].sqrt()
    x = model.means[which] + torch.einsum("bj,bij->bi", x, model.basis[which])
    order = torch.rand(count, D, generator=generator).argsort(1)
    return torch.where(order < known, x, torch.nan)


def log_density(model: GaussianMixture, x: np.ndarray, places: np.ndarray) -> float:
    """Return the log-density of the numbers at some places, component by component, by scipy."""
    terms = [
        stats.multivariate_normal.logpdf(x[places], mean[places], covariance[np.ix_(places, places)])
        for mean, covariance in zip(model.means.numpy(), covariances_of(model), strict=True)
    ]
    return logsumexp(np.array(terms) + model.log_weights.numpy())


@pytest.mark.parametrize("sde", [VP, VE], ids=["VP", "VE"])
@pytest.mark.parametrize("share", OBSERVED)
def test_log_prob_of_what_is_observed(sde: SDE, share: float) -> None:
    model, known = mixture(sde), OBSERVED[share]
    x = with_gaps(6, known)
    expected = torch.tensor([log_density(model, row, np.flatnonzero(~np.isnan(row))) for row in x.numpy()])
    options: dict[str, Any] = {"divergence": "exact", "t_min": 1e-5, "rtol": 1e-4, "atol": 1e-4}
    result = log_likelihood(part_of(model, observed(x)), x.nan_to_num(), **options)
    assert (result.log_prob - expected).abs().max() / known < 1e-3


def test_the_chain_rule_holds_whatever_is_absent() -> None:
    """`log p(x_m, x_g) = log p(x_m | x_g) + log p(x_g)`, where two numbers are absent of all three."""
    model, x = mixture(VP), with_gaps(3, 8)
    given = ~x.isnan() & (torch.arange(D) % 2 == 0)

    def log_prob(part: Part) -> torch.Tensor:
        return log_likelihood(
            part_of(model, part), x.nan_to_num(), divergence="exact", t_min=1e-5, rtol=1e-7, atol=1e-7
        ).log_prob

    both, conditional = log_prob(observed(x)), log_prob(observed(x, given))
    alone = log_prob(observed(torch.where(given, x, torch.nan)))
    torch.testing.assert_close(conditional + alone, both, rtol=0, atol=1e-3)


def test_an_examples_numbers_do_not_depend_on_the_others() -> None:
    model = mixture(VP)
    x = torch.cat([with_gaps(1, 9), with_gaps(1, 1)])
    together, x = part_of(model, observed(x)), x.nan_to_num()
    options: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}
    in_batch = log_likelihood(together, x, seeds=range(2), **options)
    for rows in (slice(0, 1), slice(1, 2)):
        alone = log_likelihood(rows_of(together, rows), x[rows], seeds=range(2)[rows], **options)
        torch.testing.assert_close(alone.log_prob, in_batch.log_prob[rows], rtol=0, atol=1e-9)


@pytest.mark.parametrize("share", OBSERVED)
def test_moments_of_what_is_missing_given_the_rest(share: float) -> None:
    model, count = mixture(VPSDE()), 4096
    x = with_gaps(1, OBSERVED[share]).expand(count, D)
    part = missing(x)
    # Quasi-random latents leave the solver's error, and hardly one of so many samples.
    x_T = torch.from_numpy(stats.qmc.MultivariateNormalQMC(np.zeros(D), seed=0).random(count))
    samples = get_solver("dpmpp_2m", num_steps=25)(part_of(model, part), x_T).x
    places = part.modelled[0].numpy()
    mean, covariance = by_blocks(model, x[0].numpy(), ~places)
    found = samples[:, torch.from_numpy(places)].numpy()
    std = np.sqrt(np.diag(covariance))
    assert np.abs((found.mean(0) - mean) / std).max() < 0.03
    assert np.abs((np.cov(found.T).reshape(covariance.shape) - covariance) / np.outer(std, std)).max() < 0.03


def by_blocks(model: GaussianMixture, x: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the numbers that are not given, from the blocks of each component."""
    logs, means, seconds = [], [], []
    for weight, mean, whole in zip(model.log_weights.numpy(), model.means.numpy(), covariances_of(model), strict=True):
        gain = whole[np.ix_(~given, given)] @ np.linalg.inv(whole[np.ix_(given, given)])
        logs.append(weight + stats.multivariate_normal.logpdf(x[given], mean[given], whole[np.ix_(given, given)]))
        means.append(mean[~given] + gain @ (x[given] - mean[given]))
        left = whole[np.ix_(~given, ~given)] - gain @ whole[np.ix_(given, ~given)]
        seconds.append(left + np.outer(means[-1], means[-1]))
    share = np.exp(logs - logsumexp(logs))
    mean = share @ np.array(means)
    return mean, np.einsum("k,kij->ij", share, np.array(seconds)) - np.outer(mean, mean)


def test_scores_are_derivatives_and_what_is_not_modelled_is_standard_normal() -> None:
    model, x = mixture(VE), with_gaps(3, 6)
    part, t = observed(x, ~x.isnan() & (torch.arange(D) < 4)), torch.tensor([0.1, 0.4, 0.9], dtype=FLOAT)
    exact, wrapped = MixturePart(model, part), part_of(model, part)
    state = torch.randn(3, D, dtype=FLOAT, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (slope,) = torch.autograd.grad(exact.log_prob(state, t).sum(), state)
    torch.testing.assert_close(wrapped.score(state, t), slope, rtol=1e-9, atol=1e-9)
    # Tweedie's formula, and the score of N(0, 1), at alpha = 1 of VE.
    sigma = model.sde.sigma(t)[:, None]
    torch.testing.assert_close(wrapped.denoise(state, t), state + sigma**2 * slope, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(wrapped.noise(state, t), -sigma * slope, rtol=1e-9, atol=1e-9)
    outside = ~part.modelled
    torch.testing.assert_close(slope[outside], (-state / (1 + sigma**2))[outside], rtol=1e-9, atol=1e-9)


def test_what_a_network_is_told() -> None:
    x = torch.tensor([[1.0, torch.nan, 3.0], [4.0, 5.0, 6.0]])
    told = observed(x, torch.tensor([[True, False, False], [False] * 3])).beside(Condition({"class": torch.arange(2)}))
    assert told.values["part"].tolist() == [[1, 0, 0, 1, 0, 0, 0, 1, 0], [0] * 9]
    assert told.hidden_rows["part"].tolist() == [False, True]
    assert told.values["class"].tolist() == [0, 1]


def test_refused_in_one_line() -> None:
    x = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])
    with pytest.raises(UserError, match="nothing is observed of example 1"):
        observed(x)
    with pytest.raises(UserError, match="nothing is missing of example 0"):
        missing(torch.zeros(1, 2))
    with pytest.raises(UserError, match="example 0 lacks a number that is to be given"):
        observed(x, torch.tensor([False, True]))
    model = mixture(VP)
    whole = torch.zeros(1, D, dtype=FLOAT)
    prior = matched_prior(model.sde, torch.zeros(D), torch.ones(D))
    with pytest.raises(UserError, match="one of a part: leave it out"):
        log_likelihood(part_of(model, observed(whole)), whole, prior=prior)
