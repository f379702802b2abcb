"""Variational dequantisation learned for a mixture in the plane, four levels wide: the bound against the truth."""

from __future__ import annotations

import math

import torch

from score_sde.common.noise import SampleNoise
from score_sde.data import Bins
from score_sde.evaluation.likelihood.dequantisation import UniformDequantiser, VariationalDequantiser, bound_of_draws
from score_sde.models import GaussianMixture
from score_sde.models.dequantisation_flow import DequantisationFlow
from score_sde.sde import VPSDE
from score_sde.training.dequantisation import fit_dequantisation

FLOAT = torch.float64


def test_the_gap_of_uniform_noise_is_closed():
    """`E[log P(k) - log p + log q]`, which no noise makes negative, is learned away but for an eighth.

    With sixteen draws, averaged inside the logarithm, nothing of it is left.
    """
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 0.3, 0.2])
    means = torch.tensor([[0.4, 0.1], [-0.5, 0.5], [-0.3, -0.6]])
    stds = torch.tensor([[0.15, 0.2], [0.2, 0.15], [0.1, 0.12]])
    sde, t_min = VPSDE(), 1e-4
    model = GaussianMixture(sde, weights, means, torch.diag_embed(stds**2))
    below = torch.special.ndtr((torch.linspace(-1, 1, 5) - means[..., None]) / stds[..., None]).double()
    of_bins = below[..., 1:] - below[..., :-1]
    joint = torch.einsum("c,ci,cj->ij", weights.double(), of_bins[:, 0], of_bins[:, 1])
    drawn = torch.multinomial(joint.flatten(), 4000, replacement=True)
    levels, truth = torch.stack([drawn // 4, drawn % 4], dim=1).reshape(-1, 1, 1, 2), joint.flatten()[drawn].log()

    flow = DequantisationFlow(1, Bins(4))
    best, gain = fit_dequantisation(flow, model, levels[:3000], num_steps=1500, t_min=t_min)
    gaps = []
    for dequantiser in (UniformDequantiser(Bins(4)), VariationalDequantiser(best)):
        x, log_q = dequantiser.sample(levels[3000:], SampleNoise(range(1000), "dequantisation"))
        log_prob = model.log_prob(x, torch.tensor(t_min, dtype=FLOAT)).double()
        gap = (truth[3000:] - log_prob + log_q) / (2 * math.log(2))
        assert float(gap.mean()) > -3 * float(gap.std()) / math.sqrt(1000)
        gaps.append(float(gap.mean()))
    print("gaps", gaps, "gain", gain)
    assert gaps[0] > 0.5
    assert gaps[1] < gaps[0] / 8
    noise, log_weights = SampleNoise(range(1000), "dequantisation"), []
    for _ in range(16):
        x, log_q = VariationalDequantiser(best).sample(levels[3000:], noise)
        log_weights.append(model.log_prob(x, torch.tensor(t_min, dtype=FLOAT)).double() - log_q)
    gap = (truth[3000:] - bound_of_draws(torch.stack(log_weights, dim=1))) / (2 * math.log(2))
    assert -3 * float(gap.std()) / math.sqrt(1000) < float(gap.mean()) < 0.01
    assert abs(gain - (gaps[0] - gaps[1])) < 0.1 * gaps[0]
