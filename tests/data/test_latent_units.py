"""Latents as units: there and back, moments, noise by seeds, and what they are worth, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, distributions

from score_sde.common.noise import SampleNoise
from score_sde.data import Batches, Dataset
from score_sde.data.dataset import described
from score_sde.data.latent_units import Latents, scaled
from score_sde.data.units import Bins, Points, Standardised
from score_sde.models.autoencoder import KLAutoencoder
from score_sde.models.decoded import Logistic
from tests.models.test_autoencoder import DOUBLE, Given, Linear, linear_autoencoder, normals

SIZE = 6


@pytest.fixture(autouse=True)
def double() -> object:
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


def rotated(std: float = 0.5) -> Latents:
    """Return latents that are levels, six at a point of time, turned, with normal noise of one deviation."""
    turn = torch.linalg.qr(normals(SIZE, SIZE))[0]
    points = Points(9, -1.0, 1.0)
    to_std = torch.full((SIZE,), 2 * math.log(std), dtype=DOUBLE)
    encoder = Linear(torch.cat([turn, torch.zeros_like(turn)]), torch.cat([torch.zeros(SIZE, dtype=DOUBLE), to_std]))
    decoder = Linear(turn.T.contiguous(), torch.zeros(SIZE, dtype=DOUBLE))
    decoded = Logistic(9, points.place, points.spacing).double()
    return Latents(KLAutoencoder(encoder, decoder, decoded, 1, SIZE), points)


def levels(count: int = 40) -> Tensor:
    drawn = torch.randint(9, (count, SIZE, 1), generator=torch.Generator().manual_seed(1))
    return (drawn * torch.linspace(0.3, 1, SIZE)[:, None]).to(torch.uint8)


def test_examples_come_back_from_their_latents() -> None:
    examples = levels()
    units = scaled(rotated(), rotated().encoded(examples))
    assert units.shape_of((SIZE, 1)) == (SIZE, 1)
    assert torch.equal(units.decode(units.encode(examples)), examples)


def test_latents_have_mean_0_and_deviation_1() -> None:
    """Of each channel, noise included; what was scaled has the moments of a mixture of normals."""
    examples, units = levels(), rotated()
    encoded = units.encoded(examples)
    mean, std = encoded[:, 0].mean((0, 2)), (encoded[:, 0].var((0, 2), correction=0) + 0.25).sqrt()
    found = scaled(units, encoded)
    torch.testing.assert_close(found.mean.flatten(), mean)
    torch.testing.assert_close(found.std.flatten(), std)
    for of_latents in (found.moments(examples), found.moments_of(encoded)):
        torch.testing.assert_close(of_latents[0].flatten(), torch.zeros(SIZE, dtype=DOUBLE))
        torch.testing.assert_close(of_latents[1].flatten(), torch.ones(SIZE, dtype=DOUBLE))
    assert found.log_scale((SIZE, 1)) == pytest.approx(-std.log().sum().item())


def test_noise_is_that_of_an_examples_own_seed() -> None:
    examples, units = levels(), rotated()
    together = units.encode(examples, SampleNoise(range(40), "dequantisation"))
    alone = units.encode(examples[7:8], SampleNoise([7], "dequantisation"))
    torch.testing.assert_close(alone, together[7:8], rtol=1e-12, atol=1e-12)
    wanted = units.encode(examples[7:8]) + 0.5 * SampleNoise([7], "dequantisation").normal(alone)
    torch.testing.assert_close(alone, wanted, rtol=1e-12, atol=1e-12)


def test_batches_of_what_was_encoded_before_are_those_that_are_encoded_now() -> None:
    examples, units = levels(), rotated()
    computed = Dataset("levels", examples, examples[:3], units)
    kept = replace(computed, encoded=units.encoded(examples))
    batches = [Batches(data, 16, seed=3) for data in (computed, kept)]
    for _ in range(3):
        first, second = (next(each).x_0 for each in batches)
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    assert computed.gaussian is not None
    assert kept.gaussian is not None
    torch.testing.assert_close(computed.gaussian.mean, kept.gaussian.mean)
    assert kept.model_shape == (SIZE, 1)


def test_what_latents_are_worth() -> None:
    """By the densities of `torch.distributions`: `log q(y | x) - log P(k | z)`."""
    examples = levels(5)
    units = scaled(rotated(), rotated().encoded(levels()))
    drawn = units.draw_and_rate(examples, SampleNoise(range(5), "dequantisation"))
    z = drawn.y * units.std + units.mean
    encoded = units.encoded(examples)
    log_q = distributions.Normal(encoded[:, 0], encoded[:, 1]).log_prob(z).flatten(1).sum(1)
    log_q = log_q + units.std.log().sum()
    log_p = units.autoencoder.log_prob(units.pixels.encode(examples), z)
    torch.testing.assert_close(drawn.log_q, log_q - log_p, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_bound_through_a_linear_decoder_falls_short_by_the_divergence_of_its_posterior(scale: float) -> None:
    """In data units, of latents whose density is exact; the mean over noise is exact by cubature."""
    autoencoder, density, covariance = linear_autoencoder(scale)
    pixels = Standardised(normals(5, 1, seed=8), normals(5, 1, seed=9).exp(), DOUBLE)
    mean, std = normals(2, 1, seed=10), normals(2, 1, seed=11).exp()
    units = Latents(autoencoder, pixels, mean=mean, std=std)
    x = density.sample((3,))[..., None]
    noise = math.sqrt(2) * torch.cat([torch.eye(2, dtype=DOUBLE), -torch.eye(2, dtype=DOUBLE)])
    given: Any = Given(noise.repeat(3, 1))
    drawn = units.draw_and_rate(pixels.decode(x).repeat_interleave(4, 0), given)
    # What models of latents know: z is standard normal, and y = (z - mean) / std.
    of_y = distributions.Normal(-mean / std, 1 / std).log_prob(drawn.y).flatten(1).sum(1)
    bound = (of_y - drawn.log_q).reshape(3, 4).mean(1)
    zero = torch.zeros(2, dtype=DOUBLE)
    gap = distributions.kl_divergence(
        distributions.MultivariateNormal(zero, scale**2 * covariance),
        distributions.MultivariateNormal(zero, covariance),
    )
    truth = density.log_prob(x[..., 0]) - pixels.std.log().sum()
    torch.testing.assert_close(bound, truth - gap, rtol=1e-10, atol=1e-10)


def test_descriptions_make_the_same_units() -> None:
    units = replace(rotated(), about={"shape": [SIZE, 1]})
    units = scaled(units, units.encoded(levels()))
    data = Dataset("levels", levels(), levels(3), units)
    again = described(data.description, -5.0, 5.0, as_bins=True)
    assert isinstance(again.units, Latents)
    assert again.levels == 9
    assert again.units.pixels == units.pixels
    assert not isinstance(again.units.pixels, Bins)
    x = normals(4, SIZE, 1)
    assert torch.equal(again.units.decode(x), units.decode(x))
    assert torch.equal(again.units.encode(levels()), units.encode(levels()))
