"""Bits per dimension of discrete distributions whose entropy is known: none may be less, and exact models come close.

Gaussian mixtures in two and in eight dimensions are quantised to 4, 17 and 256 levels. Their bins' probabilities are
differences of normal distribution functions. In two dimensions the entropy is a sum over all bins; the eight dimensions
are independent, so it is a sum over them. Two kinds of exact model are measured: of the levels (a `QuantisedModel` with
the best logits), and of the mixture before it was quantised.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from score_sde.common.noise import SampleNoise
from score_sde.data import Bins, Points
from score_sde.evaluation.likelihood.dequantisation import (
    Dequantiser,
    TruncatedNormalDequantiser,
    UniformDequantiser,
    bound_of_draws,
)
from score_sde.models import GaussianMixture, QuantisedModel
from score_sde.models.quantised_model import truncated_normal
from score_sde.sde import SDE, VESDE, VPSDE, SubVPSDE
from score_sde.solvers import log_likelihood
from score_sde.solvers.density.bounds import (
    continuous_bound,
    discrete_bound,
    discretised_gaussian_decoder,
    gaussian_decoder,
    posterior_decoder,
    score_flow_bound,
)

FLOAT = torch.float64
SDES = [VPSDE(t_min=1e-5), SubVPSDE(), VESDE(sigma_min=1e-3)]
PRECISE: dict[str, Any] = {"divergence": "exact", "rtol": 1e-4, "atol": 1e-4}


def name(sde: SDE) -> str:
    return type(sde).__name__


class Quantised:
    """A mixture whose dimensions are independent given the component, quantised to `levels` bins of [-1, 1].

    The first and the last bin hold the tails. In eight dimensions all have the same two-component distribution.
    """

    def __init__(self, dimension: int, levels: int, count: int) -> None:
        self.dimension, self.levels, self.width = dimension, levels, 2 / levels
        if dimension == 2:
            self.weights = torch.tensor([0.5, 0.3, 0.2], dtype=FLOAT)
            self.means = torch.tensor([[0.4, 0.1], [-0.5, 0.5], [-0.3, -0.6]], dtype=FLOAT)
            self.stds = torch.tensor([[0.15, 0.2], [0.2, 0.15], [0.1, 0.12]], dtype=FLOAT)
        else:
            self.weights = torch.tensor([0.6, 0.4], dtype=FLOAT)
            self.means = torch.tensor([[0.35], [-0.4]], dtype=FLOAT)
            self.stds = torch.tensor([[0.15], [0.2]], dtype=FLOAT)
        edges = torch.linspace(-1, 1, levels + 1, dtype=FLOAT)
        edges[0], edges[-1] = -math.inf, math.inf
        below = torch.special.ndtr((edges - self.means[..., None]) / self.stds[..., None])
        # Of each component, in each dimension, `(components, dimensions, levels)`; no probability is quite zero.
        self.of_bins = (below[..., 1:] - below[..., :-1]).clamp(min=1e-300)
        if dimension == 2:
            joint = torch.einsum("c,ci,cj->ij", self.weights, self.of_bins[:, 0], self.of_bins[:, 1])
        else:
            joint = (self.weights @ self.of_bins[:, 0])[None]
        joint = joint.flatten()
        entropy = -float(torch.xlogy(joint, joint).sum()) / math.log(2)
        self.bits_per_dim = entropy / 2 if dimension == 2 else entropy
        generator = torch.Generator().manual_seed(levels)
        drawn = torch.multinomial(joint, count * (8 if dimension == 8 else 1), True, generator=generator)
        if dimension == 2:
            self.examples = torch.stack([drawn // levels, drawn % levels], dim=1)
            log_prob = torch.log(joint[drawn])
        else:
            self.examples = drawn.reshape(count, dimension)
            log_prob = torch.log(joint[self.examples]).sum(1)
        # Of each example.
        self.truth = -log_prob / (dimension * math.log(2))

    def dequantised(self, dequantiser: Dequantiser) -> tuple[Tensor, Tensor]:
        """Draw examples with noise; return them and the noise's log-density."""
        return dequantiser.sample(self.examples.double(), SampleNoise(range(len(self.examples)), "dequantisation"))

    def bits(self, log_bound: Tensor) -> Tensor:
        return -log_bound / (self.dimension * math.log(2))

    def model_of_levels(self, sde: SDE, dequantised: bool = True) -> QuantisedModel:
        return QuantisedModel(
            BestLogits(self, sde, dequantised),
            sde,
            self.levels,
            noise_label=lambda t: t,
            scale_input=False,
            dequantised=dequantised,
        )

    def check(self, bits: Tensor, largest_gap: float) -> None:
        """See that a bound is not below the truth by more than the error bar, nor above it by more than the gap."""
        gap = bits - self.truth
        error = float(gap.std()) / math.sqrt(len(gap))
        entropy_error = float(bits.std()) / math.sqrt(len(bits))
        print(
            f"bits {float(bits.mean()):.4f}, entropy {self.bits_per_dim:.4f}, gap {float(gap.mean()):.4f} ± {error:.4f}"
        )
        assert -3 * error < float(gap.mean()) < largest_gap + 3 * error
        assert error < 0.025
        assert -3 * entropy_error < float(bits.mean()) - self.bits_per_dim < largest_gap + 3 * entropy_error


class BestLogits(nn.Module):
    """`log p(level of a dimension | noisy values of the others)`. Noise labels are times."""

    def __init__(self, data: Quantised, sde: SDE, dequantised: bool) -> None:
        super().__init__()
        self.data, self.sde, self.dequantised = data, sde, dequantised

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        count = self.data.levels + self.dequantised
        places = torch.linspace(-1, 1, count, dtype=FLOAT)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        z = (alpha[:, None, None] * places[:, None] - x[:, None, :]) / sigma[:, None, None]
        evidence = truncated_normal(z)[0] if self.dequantised else -0.5 * z**2
        prior = self.data.of_bins.log().expand(-1, self.data.dimension, -1)
        if self.data.dimension == 8:
            return (self.data.weights @ self.data.of_bins[:, 0]).log()[None, :, None].expand(len(x), -1, 8).flatten(1)
        of_dimension = torch.logsumexp(prior + evidence.mT[:, None], dim=3)
        others = self.data.weights.log()[:, None] + of_dimension.sum(2, keepdim=True) - of_dimension
        return torch.logsumexp(others[..., None] + prior, dim=1).mT.flatten(1)


CASES = [(sde, 2, levels) for sde in SDES for levels in (4, 17, 256)] + [
    (SDES[0], 8, levels) for levels in (4, 17, 256)
]


@pytest.mark.parametrize(("sde", "dimension", "levels"), CASES, ids=[f"{name(sde)}-{d}-{k}" for sde, d, k in CASES])
def test_uniform_dequantisation_of_a_model_of_bins(sde, dimension, levels):
    data = Quantised(dimension, levels, 300 if dimension == 2 else 60)
    x, log_q = data.dequantised(UniformDequantiser(Bins(data.levels)))
    log_prob = log_likelihood(data.model_of_levels(sde), x, **PRECISE).log_prob
    data.check(data.bits(log_prob - log_q), 0.01)


@pytest.mark.parametrize("levels", [4, 17, 256])
@pytest.mark.parametrize("dimension", [2, 8])
def test_truncated_normal_dequantisation_of_a_model_of_points(dimension, levels):
    sde, data = VPSDE(t_min=1e-7), Quantised(dimension, levels, 300 if dimension == 2 else 60)
    dequantiser = TruncatedNormalDequantiser(sde, Points(levels))
    x, log_q = data.dequantised(dequantiser)
    model = data.model_of_levels(sde, dequantised=False)
    log_prob = log_likelihood(model, x, t_min=dequantiser.t_min, **PRECISE).log_prob
    data.check(data.bits(log_prob - log_q), 0.01)


def test_bounds_are_not_better_than_the_truth(one_generator):
    """Seventeen levels in the plane; the best scores; each bound with its decoder."""
    data, sde = Quantised(2, 17, 12_000), VPSDE(t_min=1e-6)
    spacing, t_min = 2 / 16, TruncatedNormalDequantiser(sde, Points(17)).t_min
    settings: dict[str, Any] = {"seeds": range(len(data.examples))}
    places = -1 + spacing * data.examples.double()
    points, bins = data.model_of_levels(sde, dequantised=False), data.model_of_levels(sde)
    decoder = posterior_decoder(data.examples, -1.0, spacing, 17)
    data.check(data.bits(continuous_bound(points, places, decoder, t_min=t_min, **settings).log_prob), 0.01)
    decoder = discretised_gaussian_decoder(data.examples, -1.0, spacing, 17)
    for num_steps, largest_gap in ((20, 2.2), (80, 0.5), (2000, 0.02)):
        ladder: dict[str, Any] = {"num_steps": num_steps, "num_calls": 32, "t_min": t_min, **settings}
        data.check(data.bits(discrete_bound(points, places, decoder, **ladder).log_prob), largest_gap)
    x, log_q = data.dequantised(UniformDequantiser(Bins(data.levels)))
    data.check(data.bits(continuous_bound(bins, x, gaussian_decoder(x), t_min=1e-5, **settings).log_prob - log_q), 0.02)
    data.check(data.bits(score_flow_bound(bins, x, t_min=1e-5, **settings).log_prob - log_q), 0.02)


def test_more_draws_bring_the_bound_down_to_the_truth():
    """A model of the mixture itself, with bins so wide that uniform noise is far from its density in them."""
    data, sde = Quantised(2, 4, 300), VPSDE(t_min=1e-5)
    model = GaussianMixture(sde, data.weights, data.means, torch.diag_embed(data.stds**2))
    # Of the bins without the tails, which no noise reaches.
    edges = torch.linspace(-1, 1, 5, dtype=FLOAT)
    below = torch.special.ndtr((edges - data.means[..., None]) / data.stds[..., None])
    of_bins = below[..., 1:] - below[..., :-1]
    joint = torch.einsum("c,ci,cj->ij", data.weights, of_bins[:, 0], of_bins[:, 1])
    data.truth = data.bits(torch.log(joint[data.examples[:, 0], data.examples[:, 1]]))
    noise, dequantiser = SampleNoise(range(len(data.examples)), "dequantisation"), UniformDequantiser(Bins(4))
    log_weights = []
    for _ in range(64):
        x, log_q = dequantiser.sample(data.examples.double(), noise)
        log_weights.append(log_likelihood(model, x, **PRECISE).log_prob - log_q)
    every = torch.stack(log_weights, dim=1)
    means = []
    for num_draws in (1, 4, 16, 64):
        # Of all 64 in groups, so that the means compare.
        bits = torch.stack([data.bits(bound_of_draws(group)) for group in every.split(num_draws, dim=1)]).mean(0)
        gap = bits - data.truth
        means.append(float(gap.mean()))
        assert means[-1] > -3 * float(gap.std()) / math.sqrt(len(gap))
    print("gaps", means)
    assert means[0] > 2 * means[1] > 4 * means[2] > 8 * means[3]
    assert means[3] < 0.01
