"""Variances of `x_0 | x_t` without training, on Gaussian mixtures, of which they are known."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.models import Given, ModelWrapper, rows_of
from score_sde.models.analytic_variance import JacobianVariance, KnownVariance, MeasuredVariance, measure_variance
from score_sde.models.gaussian_mixture import GaussianMixture
from score_sde.sde import VESDE, VPSDE, DDPMLadder, RectifiedFlow, SubVPSDE, cosine_betas

FLOAT = torch.float64
SDES = [VPSDE(), SubVPSDE(), VESDE(), RectifiedFlow(), DDPMLadder(cosine_betas(100))]


def mixture(sde) -> GaussianMixture:
    """Three Gaussians in three dimensions, none of them along the axes."""
    generator = torch.Generator().manual_seed(0)
    means = 0.8 * torch.randn(3, 3, generator=generator, dtype=FLOAT)
    roots = 0.3 * torch.randn(3, 3, 3, generator=generator, dtype=FLOAT)
    return GaussianMixture(sde, torch.tensor([0.5, 0.3, 0.2]), means, roots @ roots.mT)


def states(model: GaussianMixture, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Data with noise, at times from all over the process."""
    generator = torch.Generator().manual_seed(1)
    t = torch.linspace(0.02, 0.98, count, dtype=FLOAT)
    x_0, noise = torch.randn(2, count, 3, generator=generator, dtype=FLOAT)
    return model.sde.perturb(x_0, noise, t), t


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_with_exact_traces_it_is_that_of_bayes_rule(sde) -> None:
    model = mixture(sde)
    x, t = states(model, 40)
    mean, variance = model.posterior(x, t).both
    found = JacobianVariance(model, num_probes=None, each=True).posterior(x, t)
    torch.testing.assert_close(found.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.variance, variance, rtol=1e-8, atol=1e-8)
    found = JacobianVariance(model, num_probes=None).posterior(x, t)
    torch.testing.assert_close(found.variance, variance.mean(1, keepdim=True).expand(40, 3), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("each", [False, True])
def test_by_random_probes_it_is_unbiased(each: bool) -> None:
    model = mixture(VPSDE())
    x, t = states(model, 8)
    estimates = torch.stack([JacobianVariance(model, 1, each, seed).posterior(x, t).both[1] for seed in range(300)])
    _, variance = model.posterior(x, t).both
    expected = variance if each else variance.mean(1, keepdim=True).expand(8, 3)
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert bool((error > 0).all())
    assert bool(((estimates.mean(0) - expected).abs() < 4 * error).all())
    # Of several probes it is their mean.
    many = JacobianVariance(model, 300, each).posterior(x, t).both[1]
    torch.testing.assert_close(many, estimates.mean(0), rtol=1e-10, atol=1e-12)


def test_it_depends_on_the_state_alone() -> None:
    model = JacobianVariance(mixture(VPSDE()), each=True)
    x, t = states(model.model, 8)
    together = model.posterior(x, t).both[1]
    for i in range(8):
        alone = model.posterior(x[i : i + 1], t[i : i + 1])
        assert alone.variance is not None
        torch.testing.assert_close(alone.variance[0], together[i], rtol=1e-12, atol=1e-14)


def test_measured_from_errors_it_is_the_mean_of_the_posterior_variance() -> None:
    """At times where it was measured, and between them, of other data."""
    model, count = mixture(VPSDE()), 8000
    generator = torch.Generator().manual_seed(2)
    share = torch.multinomial(model.log_weights.exp(), count, replacement=True, generator=generator)
    scaled = model.eigenvalues[share].sqrt() * torch.randn(count, 3, generator=generator, dtype=FLOAT)
    x_0 = model.means[share] + torch.einsum("bij,bj->bi", model.basis[share], scaled)
    own, of_all = (measure_variance(model, x_0[:2000], num_times=16, each=each) for each in (True, False))
    assert isinstance(own, MeasuredVariance)
    noise = torch.randn(count, 3, generator=generator, dtype=FLOAT)
    for t in torch.tensor([0.01, 0.1, 0.3, 0.55, 0.9], dtype=FLOAT):
        x = model.sde.perturb(x_0, noise, t)
        mean, variance = model.posterior(x, t).both
        errors = (x_0 - mean).square().mean(0)
        torch.testing.assert_close(own.posterior(x[:2], t).both[1], errors.expand(2, 3), rtol=0.1, atol=0)
        torch.testing.assert_close(of_all.posterior(x[:2], t).both[1], errors.mean().expand(2, 3), rtol=0.06, atol=0)
        torch.testing.assert_close(variance.mean(0), errors, rtol=0.05, atol=0)


def test_no_more_is_measured_than_the_data_have() -> None:
    """Of a model that answers with anything where next to nothing of the data is left."""

    class Astray(ModelWrapper):
        def denoise(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, 1000.0)

    x_0 = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 8.0]], dtype=FLOAT)
    measured = measure_variance(Astray(mixture(VPSDE())), x_0, num_times=4, each=True)
    found = measured.posterior(x_0, torch.tensor(1.0, dtype=FLOAT)).both[1]
    # A number that never changes has a thousandth of the others' mean.
    torch.testing.assert_close(found, torch.tensor([1.0, 10 / 3000, 9.0], dtype=FLOAT).expand(2, 3))


def test_where_a_process_ends_in_noise_it_is_that_of_the_data() -> None:
    """At `T` nothing of the data is left, and the posterior is the prior: what is measured ends a little before."""
    eye = torch.eye(3, dtype=FLOAT)[None]
    model = GaussianMixture(RectifiedFlow(), torch.ones(1), torch.zeros(1, 3, dtype=FLOAT), 0.25 * eye)
    x_0 = 0.5 * torch.randn(2000, 3, dtype=FLOAT, generator=torch.Generator().manual_seed(0))
    measured = measure_variance(model, x_0)
    at_T = measured.posterior(torch.zeros(1, 3, dtype=FLOAT), torch.tensor(1.0)).both[1]
    torch.testing.assert_close(at_T, x_0.square().mean().expand(1, 3), rtol=0.01, atol=0)


def test_times_of_examples_are_looked_up_each_by_itself() -> None:
    model = mixture(VPSDE())
    measured = MeasuredVariance(
        model, torch.tensor([-4.0, 0.0, 6.0]), torch.tensor([[0.1, 0.2, 0.3]] * 2 + [[0.9] * 3])
    )
    x, t = states(model, 5)
    together = measured.posterior(x, t).both[1]
    log_snr = model.sde.log_snr(t)
    for i in range(5):
        torch.testing.assert_close(together[i], measured.posterior(x[i : i + 1], t[i]).both[1][0])
    # Between two nodes the logarithm of the share is a line.
    between = model.sde.time_at_log_snr(torch.tensor(3.0, dtype=FLOAT))
    expected = torch.sqrt(torch.tensor([0.1, 0.2, 0.3]) * 0.9).double() * math.exp(-3)
    torch.testing.assert_close(measured.posterior(x[:1], between).both[1][0], expected, rtol=1e-6, atol=0)
    assert bool((log_snr.diff() < 0).all())


def test_wrappers_hand_it_on() -> None:
    model = mixture(VPSDE())
    x, t = states(model, 4)
    known = KnownVariance(model)
    assert known.steps_by_posterior
    assert not getattr(model, "steps_by_posterior", False)
    given = Given(known, None)
    assert given.steps_by_posterior
    torch.testing.assert_close(given.posterior(x, t), model.posterior(x, t), rtol=0, atol=0)
    torch.testing.assert_close(rows_of(known, slice(2)).posterior(x[:2], t[:2]), model.posterior(x[:2], t[:2]))


def test_what_cannot_be_is_refused() -> None:
    model = mixture(VPSDE())
    with pytest.raises(UserError, match="num_probes must be at least 1"):
        JacobianVariance(model, 0)
    with pytest.raises(UserError, match="at 1 times"):
        measure_variance(model, torch.zeros(3, 3), num_times=1)
    with pytest.raises(UserError, match="on 0 examples"):
        measure_variance(model, torch.zeros(0, 3))
