"""What training measures on the way, on a mixture that is known."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.data import Standardised, load_dataset
from score_sde.data.sources.toys import ring_of_gaussians
from score_sde.evaluation.likelihood.dequantisation import WithoutLevels
from score_sde.evaluation.progress import progress_measure
from score_sde.evaluation.samples.distances import DataDistances
from score_sde.models import GaussianMixture
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver


def test_bits_and_distances_of_a_known_mixture(on_cpu):
    dataset, sde = load_dataset("eight_gaussians"), VPSDE()
    model = GaussianMixture(sde, *ring_of_gaussians())
    solver = get_solver("default", num_steps=10)
    measured = progress_measure(dataset, lambda _: WithoutLevels(Standardised()), 1e-4, solver, 120, 3)(model)
    x = dataset.test[:120].double()
    exact = -model.log_prob(x, torch.tensor(1e-4, dtype=torch.float64)).mean().item() / (2 * math.log(2))
    # 24 steps, and one probe for each of 120 points.
    assert measured.pop("test_bits_per_dim") == pytest.approx(exact, abs=0.05)
    latents = sde.prior_sample((120, 2), seeds=range(3, 123))
    expected = DataDistances(dataset)(solver(model, latents, seeds=range(3, 123)).x)
    assert measured == pytest.approx(expected, rel=1e-3)
