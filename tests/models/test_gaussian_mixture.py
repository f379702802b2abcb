"""The mixture against scipy's density, automatic differentiation, Tweedie's formula and samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE, SubVPSDE

PROCESSES = [VPSDE(), SubVPSDE(), VESDE()]


def mixture(sde, components: int = 3, dimension: int = 4) -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(components, dimension, dimension, dtype=torch.float64, generator=generator)
    means = torch.randn(components, dimension, dtype=torch.float64, generator=generator)
    weights = torch.rand(components, dtype=torch.float64, generator=generator) + 0.5
    return GaussianMixture(sde, weights, means, 0.1 * factors @ factors.mT)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_log_prob_is_scipys(sde) -> None:
    model = mixture(sde)
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    covariances = model.basis @ torch.diag_embed(model.eigenvalues) @ model.basis.mT
    for time in (1e-3, 0.4, 1.0):
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        terms = [
            stats.multivariate_normal.logpdf(
                x.numpy(), alpha * mean.numpy(), alpha**2 * cov.numpy() + sigma**2 * np.eye(4)
            )
            for mean, cov in zip(model.means, covariances, strict=True)
        ]
        expected = logsumexp(np.stack(terms, 1) + model.log_weights.numpy(), axis=1)
        torch.testing.assert_close(model.log_prob(x, t), torch.from_numpy(expected), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_score_is_the_gradient_and_denoise_is_tweedies(sde) -> None:
    model = mixture(sde)
    t = torch.linspace(1e-3, 1, 8, dtype=torch.float64)
    x = torch.randn(8, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = sde.perturb(x, torch.ones_like(x), t).requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(x, t).sum(), x)
    torch.testing.assert_close(model.score(x, t), gradient, rtol=1e-9, atol=1e-12)
    tweedie = (x + sde.expand(sde.sigma(t) ** 2, x) * gradient) / sde.expand(sde.alpha(t), x)
    torch.testing.assert_close(model.denoise(x, t), tweedie, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_the_posterior_variance_is_tweedies_derivative(sde) -> None:
    """`Cov[x_0 | x_t] = (sigma^2 / alpha) dD/dx_t`, its diagonal."""
    model = mixture(sde)
    t = torch.linspace(0.05, 1, 8, dtype=torch.float64)
    x = torch.randn(8, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = sde.perturb(x, torch.ones_like(x), t)
    mean, variance = model.posterior(x, t)
    assert variance is not None
    assert torch.equal(mean, model.denoise(x, t))
    for row, time in enumerate(t):

        def denoise(flat: torch.Tensor, time: torch.Tensor = time) -> torch.Tensor:
            return model.denoise(flat.reshape(1, 2, 2), time).flatten()

        jacobian = torch.autograd.functional.jacobian(denoise, x[row].flatten())
        expected = sde.sigma(time) ** 2 / sde.alpha(time) * jacobian.diagonal()
        torch.testing.assert_close(variance[row].flatten(), expected, rtol=1e-6, atol=1e-12)


def test_the_posterior_is_bayes_rule() -> None:
    """Moments of `p(x_0) N(x_t; alpha x_0, sigma^2)` by quadrature on a line."""
    sde, t = VPSDE(), torch.tensor(0.35, dtype=torch.float64)
    weights, means = torch.tensor([[0.3, 0.7], [-1.5, 0.8]], dtype=torch.float64)
    model = GaussianMixture(sde, weights, means[:, None], torch.tensor([[[0.09]], [[0.4]]], dtype=torch.float64))
    x = torch.tensor([[-1.2], [-0.2], [0.4]], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    likelihood = torch.exp(-0.5 * ((x.T - sde.alpha(t) * grid) / sde.sigma(t)) ** 2)
    density = torch.zeros(len(grid), 1, dtype=torch.float64)
    for k, std in enumerate((0.3, 0.4**0.5)):
        density = density + weights[k] / std * torch.exp(-0.5 * ((grid - means[k]) / std) ** 2)
    share = density * likelihood / (density * likelihood).sum(0)
    mean = (share * grid).sum(0)
    variance = (share * (grid - mean) ** 2).sum(0)
    found = model.posterior(x, t)
    torch.testing.assert_close(found.mean[:, 0], mean, rtol=1e-6, atol=1e-9)
    assert found.variance is not None
    torch.testing.assert_close(found.variance[:, 0], variance, rtol=1e-6, atol=1e-9)


def test_denoised_mean_is_the_regression_of_data_on_noisy_data() -> None:
    """`E[x_0 | x_t]` is orthogonal to the residual: `E[(x_0 - D) D] = 0`, over samples of the mixture."""
    sde = VPSDE()
    generator = torch.Generator().manual_seed(4)
    model = GaussianMixture(
        sde,
        torch.tensor([0.3, 0.7]),
        torch.tensor([[-2.0], [1.0]], dtype=torch.float64),
        torch.tensor([[[0.05]], [[0.3]]], dtype=torch.float64),
    )
    count = 200_000
    chosen = (torch.rand(count, generator=generator) < 0.7).long()
    noise = torch.randn(2, count, 1, dtype=torch.float64, generator=generator)
    x_0 = model.means[chosen] + model.eigenvalues[chosen].sqrt() * noise[0]
    t = torch.tensor(0.3, dtype=torch.float64)
    denoised = model.denoise(sde.perturb(x_0, noise[1], t), t)
    products = (x_0 - denoised) * denoised
    assert abs(float(products.mean())) < 4 * float(products.std()) / count**0.5
    assert abs(float(denoised.mean()) - 0.1) < 4 * float(x_0.std()) / count**0.5


def test_bad_shapes_and_covariances_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(K,\), \(K, d\) and \(K, d, d\)"):
        GaussianMixture(VPSDE(), torch.ones(2), torch.zeros(3, 4), torch.eye(4).expand(3, 4, 4))
    with pytest.raises(ValueError, match="negative eigenvalue -1"):
        GaussianMixture(VPSDE(), torch.ones(1), torch.zeros(1, 2), torch.diag(torch.tensor([1.0, -1.0]))[None])
