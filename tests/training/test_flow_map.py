"""Lagrangian matching is 0 of an exact flow map, known of a wrong one, and finds the right one."""

from __future__ import annotations

import copy

import pytest
import torch

from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import MLP, FlowMap, ScoreModel
from score_sde.models.flow_map import KIND, UNTIL
from score_sde.sde import SDE, VESDE, VPSDE, SubVPSDE
from score_sde.training.flow_map import LagrangianMatching
from score_sde.training.objectives import get_objective
from tests.gaussian_flow import FLOAT, GaussianFlow

PROCESSES = [VPSDE(), SubVPSDE(), VESDE()]
MEAN, VARIANCES = [0.3, -0.2, 0.1], [1.0, 0.1, 0.003]


def batch(count: int) -> Batch:
    noise = torch.randn(count, 3, dtype=FLOAT, generator=torch.Generator().manual_seed(0))
    return Batch(torch.tensor(MEAN, dtype=FLOAT) + torch.tensor(VARIANCES, dtype=FLOAT).sqrt() * noise)


def noise(count: int, seed: int = 1) -> BatchNoise:
    return BatchNoise(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("own", [False, True], ids=["teacher", "itself"])
@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_of_an_exact_map_loss_and_gradient_are_zero(sde: SDE, own: bool) -> None:
    model = GaussianFlow(sde, MEAN, VARIANCES)
    teacher = copy.deepcopy(model)
    losses = LagrangianMatching(sde, None if own else lambda condition: teacher)(model, batch(512), noise(512))
    assert float(losses.values.detach().max()) < 1e-16
    for gradient in torch.autograd.grad(losses.values.mean(), list(model.parameters())):
        assert float(gradient.abs().max()) < 1e-9


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_of_a_shifted_map_the_residual_is_the_shift_less_what_the_teacher_makes_of_it(sde: SDE) -> None:
    """`D + shift` arrives at `y + (1 - rho_s / rho_t) shift`, of which the teacher's mean has `v / (v + rho_s^2)`."""
    model, shift = GaussianFlow(sde, MEAN, VARIANCES), 0.05
    teacher = copy.deepcopy(model)
    exact = model.mean_denoised
    model.mean_denoised = lambda *arguments: exact(*arguments) + shift  # type: ignore[method-assign]
    x = sde.prior_sample((4, 3), seeds=range(4), dtype=FLOAT)
    t, s = torch.full((4,), 0.9, dtype=FLOAT), torch.tensor([0.01, 0.1, 0.4, 0.7], dtype=FLOAT)
    rho, rho_t = sde.at(s).rho[:, None], sde.at(t).rho[:, None]
    found = LagrangianMatching(sde, lambda condition: teacher).residual(model, x, t, model.position(rho[:, 0]))
    variances = torch.tensor(VARIANCES, dtype=FLOAT)
    expected = shift * (1 - (1 - rho / rho_t) * variances / (variances + rho**2))
    torch.testing.assert_close(found.detach(), expected.expand(4, 3), rtol=0, atol=1e-9)


def test_a_wrong_map_becomes_the_teachers() -> None:
    sde = VPSDE()
    teacher = GaussianFlow(sde, MEAN, VARIANCES)
    model = GaussianFlow(sde, [0.0, 0.0, 0.0], [0.5, 0.5, 0.5])
    objective = LagrangianMatching(sde, lambda condition: teacher)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.8, 0.95))
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 60)
        optimizer.zero_grad()
        objective(model, batch(64), noise(64, step)).values.mean().backward()
        optimizer.step()
        model.variances.data.clamp_(min=1e-3)
    torch.testing.assert_close(model.mean.detach(), teacher.mean.detach(), rtol=0, atol=5e-3)
    torch.testing.assert_close(model.variances.detach(), teacher.variances.detach(), rtol=0.05, atol=5e-3)


def test_without_a_teacher_the_denoising_is_learnt_beside() -> None:
    """The sum is that of both losses on the same numbers; the residual's right side has no gradient."""
    sde = VPSDE()
    torch.manual_seed(0)
    model = FlowMap(ScoreModel(MLP(3, 8, 1, {UNTIL: KIND}).double(), sde, "velocity"))
    denoising = get_objective(sde)
    both = LagrangianMatching(sde, None, denoising)(model, batch(16), noise(16))
    source = noise(16)
    alone = LagrangianMatching(sde)(model, batch(16), source).values
    torch.testing.assert_close(both.values, alone + denoising(model, batch(16), source).values, rtol=1e-12, atol=0)


def test_many_times_are_pure_noise_and_positions_lie_behind_them() -> None:
    sde = VPSDE()
    model = GaussianFlow(sde, MEAN, VARIANCES)
    t, position = LagrangianMatching(sde, t_min=1e-3)._times(model, noise(1000))
    assert float((t > sde.T - 1e-9).double().mean()) == pytest.approx(0.4, abs=0.002)
    begin = model.position(sde.at(t).rho)
    assert float((position - begin).min()) > -1e-9
    assert float(((position - begin).abs() < 1e-9).double().mean()) == pytest.approx(0.1, abs=0.002)
    assert float(position.max()) <= float(model.position(sde.at(1e-3).rho)) + 1e-12
