"""Densities are those of data units, whatever the shape and the scale of the data: Gaussians, with the exact score.

Examples `y` are normal, correlated over all their numbers, with their own mean at each place. What a model sees is
`x = (y - m) / s`, which is normal, too: of mean `(mu - m) / s` and covariance `C / (s s^T)`. Its exact score is that of
a mixture of one Gaussian; the density of `y` is torch's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from score_sde.data.units import standardised
from score_sde.evaluation.likelihood.bits_per_dim import Likelihoods
from score_sde.evaluation.likelihood.bounds import bounds_with_noise
from score_sde.evaluation.likelihood.dequantisation import WithoutLevels
from score_sde.evaluation.likelihood.measurement import Measurement
from score_sde.models import GaussianMixture
from score_sde.sde import SDE, VESDE, VPSDE, SubVPSDE

SHAPES = [(1,), (3,), (50,), (2, 16), (1, 8, 8), (1, 4, 4, 4)]
# Where a column or a channel lies, and its deviation: of the first, and of the last, with powers of it between.
SCALES = {
    "around 0": (0.0, 1.0, 1.0),
    "5000 and 700": (5000.0, 700.0, 700.0),
    "1 and 1000": (0.0, 1.0, 1000.0),
    "0.001 around 7": (7.0, 1e-3, 1e-3),
    "1 around 1.7e9": (1.7e9, 1.0, 1.0),
}
# So early that the forward process has changed nothing.
T_MIN = 1e-8
# A process whose end is still near the data, which is quick to solve; the density at its end is known exactly.
SHORT = VPSDE(beta_max=0.2, t_min=T_MIN)
SDES = [VPSDE(t_min=T_MIN), SubVPSDE(t_min=1e-6), VESDE(sigma_min=1e-5)]
# By so much are nats/dim wrong at most.
ERROR = 1e-6


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    """Let models see numbers in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gaussian(shape: tuple[int, ...], scale: str) -> MultivariateNormal:
    """Return a Gaussian of examples of this shape, flattened, in data units."""
    place, first, last = SCALES[scale]
    parts = torch.linspace(0, 1, shape[0]) if shape[0] > 1 else torch.zeros(1)
    std = (first * (last / first) ** parts).reshape(-1, *(1,) * (len(shape) - 1)).expand(shape).flatten()
    numbers = torch.arange(math.prod(shape))
    mean = place + std * torch.sin(numbers)
    # The correlation falls off with the distance of two numbers; their deviations differ a little within a channel.
    std = std * (1 + 0.2 * torch.cos(2 * numbers))
    correlation = torch.exp(-(numbers[:, None] - numbers).abs() / 4)
    return MultivariateNormal(mean, std[:, None] * correlation * std)


def model_of(sde: SDE, data: MultivariateNormal, mean: Tensor, std: Tensor) -> GaussianMixture:
    """Return the exact model of the data in model units, whose units have this mean and deviation, flattened."""
    covariance = data.covariance_matrix / (std[:, None] * std)
    return GaussianMixture(sde, torch.ones(1), ((data.mean - mean) / std)[None], covariance[None])


def measured(sde: SDE, shape: tuple[int, ...], scale: str, num_calls: int = 0) -> tuple[Likelihoods, Tensor]:
    """Return the likelihoods of a few examples, with bounds of so many calls, and their exact log-densities."""
    torch.manual_seed(0)
    data = gaussian(shape, scale)
    train = data.sample((100,)).unflatten(1, shape)
    units = standardised(train)
    model = model_of(sde, data, *(part.expand(shape).flatten() for part in (units.mean, units.std)))
    end = torch.tensor(sde.T)
    options = {"divergence": "exact", "prior": lambda x: model.log_prob(x, end)}
    bounds = bounds_with_noise(num_calls, 100, None) if num_calls else {}
    examples = train[:3]
    result = Measurement(model, WithoutLevels(units), options, bounds=bounds)(examples, [0, 1, 2])
    likelihoods = Likelihoods(result.log_prob, result.log_q, result.bounds, result.latents, result.nfe, 0)
    return likelihoods, data.log_prob(examples.flatten(1))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_densities_in_data_units(shape, scale):
    likelihoods, exact = measured(SHORT, shape, scale)
    nats = likelihoods.bits_per_dim * math.log(2)
    torch.testing.assert_close(nats, -exact / math.prod(shape), rtol=0, atol=ERROR)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_densities_under_every_process(sde):
    likelihoods, exact = measured(sde, (2, 16), "5000 and 700")
    torch.testing.assert_close(likelihoods.bits_per_dim * math.log(2), -exact / 32, rtol=0, atol=ERROR)


def test_bounds_in_data_units():
    """Examples that differ by their scale alone are the same to the model: bounds differ by that of their units."""
    (near, _), (far, _) = (measured(VPSDE(), (2, 16), scale, 8) for scale in ("around 0", "5000 and 700"))
    assert set(near.bounds) == {"discrete", "continuous", "scoreflow"}
    for name, terms in near.bounds.items():
        added = terms.new_tensor([0.0, 0.0, 32 * math.log(700)])
        torch.testing.assert_close(far.bounds[name], terms + added, rtol=1e-9, atol=1e-9)
