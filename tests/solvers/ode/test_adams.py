"""Adams methods against a solution in closed form, and likelihoods by them."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE, SubVPSDE
from score_sde.solvers import log_likelihood
from score_sde.solvers.ode.adams import integrate_adams
from score_sde.solvers.ode.integrator import Integrator

FLOAT = torch.float64


@pytest.mark.parametrize("max_order", [1, 2, 3, 4])
@pytest.mark.parametrize("backwards", [False, True])
def test_order_on_uneven_nodes(max_order, backwards):
    """`y' = y cos(s + a)`, `y = exp(sin(s + a))` for five phases `a`; the first steps, of lower order, are short."""
    errors, phase = [], torch.arange(5, dtype=FLOAT)[None]
    for num_steps in (80, 160):
        nodes = 2 * torch.linspace(0, 1, num_steps + 1, dtype=FLOAT) ** 3
        if backwards:
            nodes = 1 - nodes
        calls = 0

        def field(s, y):
            nonlocal calls
            calls += 1
            return y * torch.cos(s + phase)

        y = integrate_adams(field, torch.exp(torch.sin(nodes[0] + phase)), nodes, max_order)
        assert calls == num_steps + 1
        errors.append(float((y - torch.exp(torch.sin(nodes[-1] + phase))).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(max_order + 1, abs=0.35)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
def test_likelihood_of_a_mixture(sde):
    """Twenty-five calls are enough for a hundredth of a nat per dimension, and a hundred for a ten-thousandth."""
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[0.6, 0.0], [-0.5, 0.6], [-0.2, -0.7]], dtype=FLOAT)
    roots = torch.tensor([[[0.3, 0.0], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.3]], [[0.25, 0], [0.1, 0.15]]], dtype=FLOAT)
    model = GaussianMixture(sde, torch.ones(3, dtype=FLOAT), means, roots @ roots.mT)
    component = torch.randint(3, (100,), generator=generator)
    noise = torch.randn(100, 2, 1, generator=generator, dtype=FLOAT)
    t_min, T = torch.tensor(sde.t_min, dtype=FLOAT), torch.tensor(sde.T, dtype=FLOAT)
    x = sde.perturb(means[component] + (roots[component] @ noise)[..., 0], noise[..., 0], t_min)
    errors = []
    for num_steps in (24, 99):
        result = log_likelihood(
            model, x, divergence="exact", prior=lambda x: model.log_prob(x, T), method="adams", num_steps=num_steps
        )
        assert result.nfe == num_steps + 1
        errors.append(float((result.log_prob - model.log_prob(x, t_min)).abs().mean()) / 2)
    print("errors", errors)
    assert errors[0] < 0.01
    assert errors[1] < 1e-4


def test_mistakes_are_explained():
    model = GaussianMixture(VPSDE(), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    x = torch.zeros(1, 2)
    with pytest.raises(UserError, match="'adams' takes fixed steps: give num_steps"):
        log_likelihood(model, x, method="adams")
    with pytest.raises(UserError, match=r"has no option 'order' .*; it has: max_order"):
        Integrator("adams", options={"order": 3})
    with pytest.raises(UserError, match="max_order must be at least 1"):
        Integrator("adams", options={"max_order": 0})
