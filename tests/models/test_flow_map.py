"""A flow map stands still where its times agree, arrives at what it denoises, and has a score model's score."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models import MLP, FlowMap, GaussianMixture, Given, QuantisedModel, ScoreModel
from score_sde.models.flow_map import KIND, UNTIL, along
from score_sde.models.networks.ncsnpp import NCSNpp
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE

FLOAT = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), RectifiedFlow()]
STD = 0.7


def scrambled(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    return network.double()


def of_vectors(sde: SDE) -> FlowMap:
    network = scrambled(MLP(2, 8, 1, {"class": 3, UNTIL: KIND}))
    return FlowMap(ScoreModel(network, sde, "velocity", data_std=STD))


def of_levels(sde: SDE) -> FlowMap:
    network = NCSNpp(4, 1, 5, channels=4, channel_multipliers=(1,), num_blocks=1, conditions={UNTIL: KIND}, dropout=0)
    return FlowMap(QuantisedModel(scrambled(network), sde, 5, data_std=STD))


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(("make", "shape"), [(of_vectors, (2,)), (of_levels, (1, 4, 4))], ids=["vectors", "levels"])
def test_both_ends_of_a_jump_are_exact(make: Callable[[SDE], FlowMap], shape: tuple[int, ...], sde: SDE) -> None:
    model = make(sde)
    x = sde.prior_sample((4, *shape), seeds=range(4), dtype=FLOAT)
    t = torch.tensor([1.0, 0.6, 0.2, 0.01], dtype=FLOAT)
    assert torch.equal(model.jump(x, t, t), x)
    last = model.position(torch.zeros(4, dtype=FLOAT))
    assert torch.equal(model.jump(x, t, torch.zeros(())), model.mean_denoised(x, t, last))
    assert not torch.equal(model.jump(x, t, t / 2), x)
    still = model.mean_denoised(x, t, model.position(sde.at(t).rho))
    torch.testing.assert_close(model.denoise(x, t), still, rtol=0, atol=1e-12)
    tweedie = (sde.expand(sde.at(t).alpha, x) * still - x) / sde.expand(sde.at(t).sigma ** 2, x)
    torch.testing.assert_close(model.score(x, t), tweedie, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_a_jump_is_ddims_step_and_moves_as_the_flow(sde: SDE) -> None:
    """With `D(x, t, s)` constant in s, the states of all s lie on one line of y against 1/rho."""
    x = sde.prior_sample((3, 2), seeds=range(3), dtype=FLOAT)
    t, s = torch.tensor(0.8, dtype=FLOAT), torch.tensor(0.3, dtype=FLOAT)
    denoised = torch.full_like(x, 0.4)
    here, there = sde.at(t), sde.at(s)
    noise = (x - here.alpha * denoised) / here.sigma
    expected = there.alpha * denoised + there.sigma * noise
    torch.testing.assert_close(along(sde, x, t, s, denoised), expected, rtol=0, atol=1e-12)
    assert torch.equal(along(sde, x, t, torch.zeros(()), denoised), denoised)


def test_position_has_an_inverse_and_its_rate() -> None:
    model = of_vectors(VPSDE())
    rho = torch.tensor([100.0, 3.0, 0.7, 0.01, 1e-4], dtype=FLOAT)
    position = model.position(rho)
    torch.testing.assert_close(model.rho_at(position), rho, rtol=1e-9, atol=1e-12)
    log_rho = rho.log().requires_grad_()
    (rate,) = torch.autograd.grad(model.position(log_rho.exp()).sum(), log_rho)
    torch.testing.assert_close(model.rate(rho), rate, rtol=1e-12, atol=0)
    assert float(model.position(torch.tensor(0.0, dtype=FLOAT))) == pytest.approx(math.asinh(100), rel=1e-15)
    assert float(model.position(torch.tensor(torch.inf, dtype=FLOAT))) == 0


def test_it_begins_as_the_score_model_whose_weights_it_has() -> None:
    sde = VPSDE()
    plain = MLP(2, 8, 1)
    told = MLP(2, 8, 1, {UNTIL: KIND})
    told.load_state_dict(plain.state_dict(), strict=False)
    for network in (plain, told):
        torch.nn.init.normal_(network.output.weight, generator=torch.Generator().manual_seed(1))
    x = sde.prior_sample((4, 2), seeds=range(4))
    t, s = torch.tensor(0.7), torch.tensor(0.2)
    teacher = ScoreModel(plain, sde, "velocity")
    expected = along(sde, x, t, s, teacher.denoise(x, t))
    torch.testing.assert_close(FlowMap(ScoreModel(told, sde, "velocity")).jump(x, t, s), expected, rtol=0, atol=1e-4)


def test_conditions_are_told_beside_the_time() -> None:
    model, x, t = of_vectors(VPSDE()), torch.ones(3, 2, dtype=FLOAT), torch.tensor(0.9, dtype=FLOAT)
    condition = Condition({"class": torch.tensor([0, 1, 1])}).hidden("class", torch.tensor([False, False, True]))
    zero = torch.zeros(())
    jumped = Given(model, condition).jump(x, t, zero)
    alone = Condition({"class": torch.tensor([1])})
    torch.testing.assert_close(jumped[1:2], model.jump(x[:1], t, zero, alone), rtol=0, atol=1e-12)
    torch.testing.assert_close(jumped[2:], model.jump(x[:1], t, zero), rtol=0, atol=1e-12)
    assert not torch.allclose(jumped[0], jumped[1])


@pytest.mark.parametrize(
    ("jump", "line"),
    [
        (lambda model, x: model.jump(x, torch.tensor(0.2), torch.tensor(0.3)), "a jump goes towards the data"),
        (lambda model, x: model.jump(x, torch.tensor(0.0), torch.tensor(0.0)), "from a time above 0"),
        (lambda model, x: model.jump(x, torch.tensor(0.5), torch.tensor(-0.1)), r"t must lie in \[0, 1\]"),
        (lambda model, x: model.jump(x, torch.tensor(0.5), 0.1, Condition({UNTIL: x})), "is the flow map's own"),
    ],
)
def test_refused(jump: Callable[[FlowMap, Tensor], Tensor], line: str) -> None:
    with pytest.raises(UserError, match=line):
        jump(of_vectors(VPSDE()), torch.ones(2, 2, dtype=FLOAT))


def test_a_network_that_takes_no_condition_is_refused() -> None:
    class Plain(torch.nn.Linear):
        def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)

    with pytest.raises(UserError, match="Plain takes none: it has to be called as network"):
        FlowMap(ScoreModel(Plain(2, 2), VPSDE()))


def test_a_model_of_a_score_alone_has_no_jumps() -> None:
    mixture = GaussianMixture(VPSDE(), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    assert not hasattr(Given(mixture, None), "jump")
