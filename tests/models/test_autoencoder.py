"""Autoencoders: rates and distortions against closed forms, the bound of a linear one, gradients through codes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.data.units import Bins, Points
from score_sde.models.autoencoder import KLAutoencoder, Posterior, VQAutoencoder, kl, perplexity
from score_sde.models.decoded import Logistic, Normal
from score_sde.models.layers.basic import PositionNorm

DOUBLE = torch.float64


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


class Given:
    """Noise that was drawn before."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def normal(self, like: Tensor) -> Tensor:
        return self.noise.reshape(like.shape)

    def uniform(self, like: Tensor) -> Tensor:
        raise NotImplementedError


def test_the_rate_is_the_divergence_of_normals() -> None:
    mean, std = normals(3, 2, 4), normals(3, 2, 4, seed=1).exp()
    found = kl(Posterior(mean, std))
    each = distributions.kl_divergence(distributions.Normal(mean, std), distributions.Normal(0.0 * mean, 1.0))
    torch.testing.assert_close(found, each.flatten(1).sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("units", [Bins(6, -1.0, 1.0), Points(6, 0.0, 2.0)])
def test_levels_have_probabilities(units: Bins | Points) -> None:
    """They sum to one, and are those of a logistic distribution on the bins, whatever noise the levels have."""
    decoded = Logistic(units.levels, units.place, units.spacing).double()
    mean = normals(5, 1, seed=2)
    levels = torch.arange(6, dtype=DOUBLE).expand(5, 6).reshape(-1, 1)
    places = units.place + units.spacing * levels
    found = decoded.log_prob(places, mean.repeat_interleave(6, 0)).reshape(5, 6)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(5, dtype=DOUBLE), rtol=1e-12, atol=0)
    edges = (places.reshape(5, 6)[:, 1:] - units.spacing / 2 - mean) / decoded.log_width.exp()
    below = F.pad(torch.sigmoid(edges), (1, 0), value=0.0)
    above = F.pad(torch.sigmoid(edges), (0, 1), value=1.0)
    torch.testing.assert_close(found.exp(), above - below, rtol=1e-10, atol=1e-14)
    noisy = places + units.spacing * (0.98 * torch.rand(places.shape, dtype=DOUBLE) - 0.49)
    assert torch.equal(decoded.log_prob(noisy, mean.repeat_interleave(6, 0)).reshape(5, 6), found)


def test_improbable_levels_have_finite_probabilities_and_gradients() -> None:
    """The logarithm is linear far away: its slope is one over the width."""
    decoded, mean = Logistic(256, -1.0, 2 / 255), torch.tensor([[40.0]], requires_grad=True)
    log_prob = decoded.log_prob(torch.tensor([[0.0]]), mean)
    (slope,) = torch.autograd.grad(log_prob.sum(), mean)
    assert log_prob.item() == pytest.approx(-40 / 0.1, rel=1e-2)
    assert slope.item() == pytest.approx(-1 / 0.1, rel=1e-6)


class Linear(nn.Module):
    """An affine map of series of one point of time."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., 0] @ self.weight.T + self.bias)[..., None]


def linear_autoencoder(scale: float) -> tuple[KLAutoencoder, distributions.MultivariateNormal, Tensor]:
    """Return a linear decoder of normal noise, the density of its examples, and the posterior's covariance.

    The encoder is the best one but for its deviations, which are `scale` times those of the posterior; `W` has columns
    that are orthogonal, so that the posterior's covariance is diagonal.
    """
    basis = torch.linalg.qr(normals(5, 2, seed=3))[0]
    W, bias, width = basis * torch.tensor([2.0, 0.7], dtype=DOUBLE), normals(5, seed=4), 0.3
    precision = W.T @ W / width**2 + torch.eye(2, dtype=DOUBLE)
    covariance = torch.linalg.inv(precision)
    to_mean = covariance @ W.T / width**2
    log_variance = (scale**2 * covariance.diagonal()).log()
    encoder = Linear(torch.cat([to_mean, torch.zeros(2, 5, dtype=DOUBLE)]), torch.cat([-to_mean @ bias, log_variance]))
    decoded = Normal().double()
    decoded.log_width.data.fill_(math.log(width))
    autoencoder = KLAutoencoder(encoder, Linear(W, bias), decoded, factor=1, channels=2)
    density = distributions.MultivariateNormal(bias, W @ W.T + width**2 * torch.eye(5, dtype=DOUBLE))
    return autoencoder, density, covariance


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_bound_of_a_linear_autoencoder_falls_short_by_the_divergence_of_its_posterior(scale: float) -> None:
    """The mean over noise is exact by cubature, since all is quadratic in it: at ± sqrt(n) along each axis."""
    autoencoder, density, covariance = linear_autoencoder(scale)
    x = density.sample((4,))[..., None]
    points = math.sqrt(2) * torch.cat([torch.eye(2, dtype=DOUBLE), -torch.eye(2, dtype=DOUBLE)])
    terms = autoencoder.terms(x.repeat_interleave(4, 0), Given(points.repeat(4, 1)))
    bound = -(terms.rate + terms.distortion).reshape(4, 4).mean(1)
    true = distributions.MultivariateNormal(torch.zeros(2, dtype=DOUBLE), covariance)
    mine = distributions.MultivariateNormal(torch.zeros(2, dtype=DOUBLE), scale**2 * covariance)
    gap = distributions.kl_divergence(mine, true)
    torch.testing.assert_close(bound, density.log_prob(x[..., 0]) - gap, rtol=1e-10, atol=1e-10)


def vq(num_codes: int = 5) -> VQAutoencoder:
    torch.manual_seed(0)
    encoder, decoder = nn.Conv1d(1, 3, 1).double(), nn.Conv1d(3, 1, 1).double()
    return VQAutoencoder(encoder, decoder, Normal().double(), 1, 3, num_codes, commitment=0.3).double()


def test_gradients_pass_straight_through_codes() -> None:
    """The encoder's output has the gradient that the decoder's input has, and that of keeping near its code."""
    model, x = vq(), normals(2, 1, 6)
    z = model.posterior(x).mean.detach()
    codes = model.codes.detach()[model.nearest(z)].movedim(-1, 1).requires_grad_()
    (slope,) = torch.autograd.grad(model.decoded.log_prob(x, model.decoder(codes)).neg().sum(), codes)
    terms = model.terms(x, SampleNoise([0, 1], "dequantisation"))
    (terms.distortion + terms.penalty).sum().backward()
    wanted = slope + 2 * 0.3 * (z - codes.detach())
    torch.testing.assert_close(model.encoder.bias.grad, wanted.sum((0, 2)), rtol=1e-10, atol=1e-12)
    # Codes follow the vectors that are nearest to them, and those of no vector stay.
    numbers, pull = model.nearest(z), 2 * (codes.detach() - z)
    assert model.codes.grad is not None
    for k in range(5):
        mine = (pull * (numbers == k)[:, None]).sum((0, 2))
        torch.testing.assert_close(model.codes.grad[k], mine, rtol=1e-10, atol=1e-12)


def test_codes_are_the_nearest_and_cost_their_logarithm() -> None:
    model, x = vq(), normals(2, 1, 6)
    z = model.posterior(x).mean
    distances = (z.movedim(1, -1)[..., None, :] - model.codes).square().sum(-1)
    assert torch.equal(model.nearest(z), distances.argmin(-1))
    terms = model.terms(x, SampleNoise([0, 1], "dequantisation"))
    torch.testing.assert_close(terms.rate, torch.full((2,), 6 * math.log(5), dtype=DOUBLE))
    torch.testing.assert_close(terms.distortion, -model.log_prob(x, z), rtol=1e-12, atol=0)
    # What is decoded does not change as long as the nearest code does not.
    torch.testing.assert_close(model.decode(z), model.decode(model.codes[model.nearest(z)].movedim(-1, 1)))


def test_perplexity_counts_codes_in_use() -> None:
    assert perplexity(torch.tensor([[0, 1], [2, 2]]), 9) == pytest.approx(2**1.5)
    assert perplexity(torch.arange(7), 7) == pytest.approx(7.0)
    assert perplexity(torch.zeros(4, dtype=torch.long), 7) == pytest.approx(1.0)


def test_a_position_is_normalised_by_itself() -> None:
    norm, x = PositionNorm(4).double(), normals(2, 4, 3, 5)
    norm.weight.data, norm.bias.data = normals(4, seed=1), normals(4, seed=2)
    wanted = F.rms_norm(x.movedim(1, -1), (4,), norm.weight, eps=1e-6) + norm.bias
    torch.testing.assert_close(norm(x).movedim(1, -1), wanted, rtol=1e-10, atol=1e-12)


def test_sizes_that_cannot_be_divided_are_refused() -> None:
    autoencoder = KLAutoencoder(nn.Identity(), nn.Identity(), Normal(), factor=4, channels=3)
    assert autoencoder.shape_of((1, 8, 12)) == (3, 2, 3)
    with pytest.raises(UserError, match="divided by 4"):
        autoencoder.shape_of((1, 8, 10))
