"""What serves a model that is a flow and no score, and what refuses it in one line."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde import VESDE, VPSDE, RectifiedFlow, ScoreModel, get_solver, log_likelihood
from score_sde.common.errors import UserError
from score_sde.control import (
    DPS,
    MMPS,
    TDS,
    ClassifierGuidance,
    Composed,
    Controlled,
    Guided,
    Masked,
    Observation,
    PiGDM,
    RePaint,
)
from score_sde.control.latents import noised
from score_sde.models import Given
from score_sde.models.networks.mlp import MLP
from score_sde.sde import SDE
from score_sde.solvers.density.bounds import continuous_bound, discrete_bound, gaussian_decoder, score_flow_bound
from score_sde.solvers.fast.named import FAST_SOLVERS
from tests.transported import Transported, latents

PROCESSES = {"rectified_flow": RectifiedFlow(), "vp": VPSDE(), "ve": VESDE(sigma_max=5.0)}
DETERMINISTIC = [name for name in FAST_SOLVERS if "sde" not in name and name != "tuned"]


@pytest.fixture(params=PROCESSES)
def model(request) -> Transported:
    return Transported(PROCESSES[request.param])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_solvers_go_straight_to_the_data(name, model):
    x_T, x_0 = latents(model)
    x = get_solver(name, num_steps=6)(model, x_T).x
    torch.testing.assert_close(x, x_0, rtol=1e-6, atol=1e-6)


def test_the_probability_flow_goes_there_too(model):
    x_T, x_0 = latents(model)
    torch.testing.assert_close(get_solver("ode", rtol=1e-8, atol=1e-8)(model, x_T).x, x_0, rtol=1e-6, atol=1e-6)


def test_the_likelihood_is_that_of_the_map_to_the_noise(model):
    """A state at `t_min` is at `T` multiplied by the ratio of the scales, which is the Jacobian."""
    sde, (_, x) = model.sde, latents(model)
    last, first = model.scale(torch.tensor([sde.T, sde.t_min], dtype=torch.float64)).tolist()
    ratio = last / first
    exact = sde.prior_log_prob(ratio * x) + x.shape[1] * math.log(ratio)
    found = log_likelihood(model, x, divergence="exact", rtol=1e-8, atol=1e-8).log_prob
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-6)


def refusals(sde: SDE) -> dict:
    """Return what needs a score, as functions of a model."""
    x = torch.zeros(2, 2, dtype=torch.float64)
    keep = Masked(torch.tensor([True, False]))
    seen = Observation(keep, x, 0.1)
    return {
        "pc": lambda m: get_solver("pc", num_steps=3)(m, x, seeds=[0, 1]),
        "sde": lambda m: get_solver("sde", num_steps=3)(m, x, seeds=[0, 1]),
        "adaptive_sde": lambda m: get_solver("adaptive_sde")(m, x, seeds=[0, 1]),
        "ddim": lambda m: get_solver("ddim", num_steps=3, eta=1.0)(m, x, seeds=[0, 1]),
        "dpmpp_2m_sde": lambda m: get_solver("dpmpp_2m_sde", num_steps=3)(m, x, seeds=[0, 1]),
        "discrete": lambda m: discrete_bound(m, x, gaussian_decoder(x), num_steps=3, seeds=[0, 1]),
        "continuous": lambda m: continuous_bound(m, x, gaussian_decoder(x), num_calls=3, seeds=[0, 1]),
        "scoreflow": lambda m: score_flow_bound(m, x, num_calls=3, seeds=[0, 1]),
        "classifier": lambda m: ClassifierGuidance(m, lambda x, t: x.sum(1)),
        "dps": lambda m: DPS(m, seen),
        "pigdm": lambda m: PiGDM(m, seen),
        "mmps": lambda m: MMPS(m, seen),
        "tds": lambda m: TDS(num_steps=3, num_particles=2)(m, seen, (2,), seeds=[0, 1]),
        "repaint": lambda m: Controlled(get_solver("ddim", num_steps=3), RePaint(keep, x))(m, x, seeds=[0, 1]),
        "composed": lambda m: Composed([m], m),
        "sdedit": lambda m: noised(m, x, 0.5, seeds=[0, 1]),
    }


@pytest.mark.parametrize("what", refusals(RectifiedFlow()))
def test_what_needs_a_score_says_that_there_is_none(what, model):
    for flow in (model, Given(model, None), Guided(model, model, 2.0)):
        with pytest.raises(UserError, match="needs a score, and this model is a flow that has none: it is transported"):
            refusals(model.sde)[what](flow)


def test_a_network_that_is_told_so_gives_no_score():
    network = ScoreModel(MLP(2, width=8, num_blocks=1), RectifiedFlow(), "flow")
    x, t = torch.zeros(1, 2), torch.tensor(0.5)
    assert network.score(x, t).shape == x.shape
    network.no_score = "its pairs were transported"
    with pytest.raises(UserError, match="its pairs were transported"):
        network.score(x, t)


def test_guidance_by_two_flows_is_one_again(model):
    """The difference of two flows is added as that of two scores: towards `s = 0.5`, away from 0.4."""
    other, x, t = Transported(model.sde, 0.4), latents(model)[0], torch.tensor(0.5)
    guided = Guided(model, other, 2.0)
    torch.testing.assert_close(guided.denoise(x, t), 2 * model.denoise(x, t) - other.denoise(x, t))
    assert guided.no_score == model.no_score
