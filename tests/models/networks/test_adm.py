"""ADM and its classifier: derivatives, blocks by their equations, and the same however they are run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models import ADM
from score_sde.models.layers.attention import SelfAttention
from score_sde.models.layers.condition import Always, Picture, Vector
from score_sde.models.layers.resolutions import Stage
from score_sde.models.layers.scale_shift import ScaleShiftBlock
from score_sde.models.networks.adm_classifier import ADMClassifier
from tests.models.networks.derivatives import check_derivatives

LABELS = torch.tensor([0.0, 3.5, 999.0], dtype=torch.float64)
SMALL: dict[str, Any] = {
    "channels": 8,
    "channel_multipliers": (0.5, 1),
    "num_blocks": 1,
    "attention_resolutions": (2,),
    "head_width": 4,
}
KINDS = {"class": 4, "place": Vector(5), "coarse": Picture(2)}


def random(network: nn.Module) -> Any:
    """Draw all weights, so that each matters."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.double()


def make(**options: Any) -> Any:
    return random(ADM((4, 6), 2, **(SMALL | options)))


def states() -> Tensor:
    return torch.randn(3, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def told() -> Condition:
    generator = torch.Generator().manual_seed(5)
    place, coarse = (torch.randn(3, *shape, dtype=torch.float64, generator=generator) for shape in ((5,), (2, 4, 6)))
    return Condition({"class": torch.tensor([1, 0, 3]), "place": place, "coarse": coarse})


@pytest.mark.parametrize(
    "options", [{}, {"scale_shift": False, "resample_in_blocks": False, "head_width": None}], ids=str
)
def test_derivatives_of_all_kinds(options: dict[str, Any]) -> None:
    check_derivatives(make(**options).requires_grad_(False), states(), LABELS)


def norm(y: Tensor, groups: int, layer: Any) -> Tensor:
    grouped = y.reshape(len(y), groups, -1)
    grouped = (grouped - grouped.mean(-1, True)) / (grouped.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return grouped.reshape(y.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]


@pytest.mark.parametrize("scale_shift", [True, False])
def test_a_block_is_its_equations(scale_shift: bool) -> None:
    block = random(ScaleShiftBlock(4, 6, 5, scale_shift=scale_shift))
    x, embedding = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    h = block.conv_in(nn.functional.silu(norm(x, 4, block.norm_in)))
    of_time = block.modulation(embedding)[..., None, None]
    if scale_shift:
        h = (1 + of_time[:, :6]) * norm(h, 6, block.norm_out) + of_time[:, 6:]
    else:
        h = norm(h + of_time, 6, block.norm_out)
    expected = block.shortcut(x) + block.conv_out(nn.functional.silu(h))
    torch.testing.assert_close(block(x, embedding), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("heads_first", [True, False])
def test_heads_attend_each_by_itself(heads_first: bool) -> None:
    """Of 3 heads of width 2; the rows of their queries, keys and values are named one by one."""
    layer = random(SelfAttention(6, channels_per_group=1, num_heads=3, heads_first=heads_first, eps=1e-5))
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64)
    made = layer.query_key_value(norm(x, 6, layer.norm).flatten(2).mT)
    rows = [[6 * h, 6 * h + 2, 6 * h + 4] if heads_first else [2 * h, 2 * h + 6, 2 * h + 12] for h in range(3)]
    attended = []
    for first in rows:
        q, k, v = (made[..., row : row + 2] for row in first)
        attended.append(torch.softmax(q @ k.mT / 2**0.5, -1) @ v)
    expected = x + layer.output(torch.cat(attended, -1)).mT.reshape(x.shape)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_what_is_hidden_is_not_heard_and_what_must_be_told_is() -> None:
    network, x, condition = make(conditions=KINDS), states(), told()
    hidden = condition
    for name in KINDS:
        hidden = hidden.hidden(name)
    torch.testing.assert_close(network(x, LABELS, hidden), network(x, LABELS), rtol=1e-12, atol=1e-12)
    always = make(conditions={"class": Always(4), "coarse": Picture(2, may_be_hidden=False)})
    assert always.embedding.condition.vectors["class"].weight.shape == (4, 32)
    assert always.encoder.conv_in.in_channels == 4
    both = Condition({name: condition.values[name] for name in ("class", "coarse")})
    for name, message in {"class": "knows no p\\(x\\)", "coarse": "every coarse told"}.items():
        alone = Condition({other: value for other, value in both.values.items() if other != name})
        for missing in (alone, both.hidden(name, LABELS > 50)):
            with pytest.raises(UserError, match=message):
                always(x, LABELS, missing)
    with pytest.raises(UserError, match="'class' must be one whole number from 0 to 3"):
        always(x, LABELS, Condition({**both.values, "class": torch.tensor([0, 4, 1])}))


def test_compiled_recomputed_and_one_by_one_it_is_the_same() -> None:
    network, x, condition = make(conditions=KINDS), states(), told()
    expected = network(x, LABELS, condition)
    flat = make(conditions=KINDS, channel_multipliers=(1,))
    compiled = torch.compile(flat, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, LABELS, condition), flat(x, LABELS, condition))
    alone = [network(x[i : i + 1], LABELS[i : i + 1], condition[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), expected)
    recomputing = make(conditions=KINDS, activation_checkpointing=True)
    for one in (network, recomputing):
        one(x, LABELS, condition).square().sum().backward()
    for ours, theirs in zip(network.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_bfloat16_is_near_and_stages_are_units() -> None:
    """By 8 bits of a number, some of them summed."""
    network, x = make().float(), states().float()
    expected = network(x, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x, LABELS)
    assert (found - expected).norm() < 2**-5 * expected.norm()
    # Two resolutions of one block and a step down; the bottleneck; twice two blocks and a step up.
    assert len(network.shard_units()) == 3 + 2 + 5
    assert all(isinstance(unit, Stage) for unit in network.shard_units())
    assert ADM(4, 2, **SMALL)(x[..., :4], LABELS).abs().max() < 1e-3


@pytest.mark.parametrize("pool", ["adaptive", "attention", "spatial", "spatial_v2"])
def test_a_classifiers_gradient_is_that_of_differences(pool: Any) -> None:
    network: Any = random(ADMClassifier((4, 6), 2, 3, pool=pool, **SMALL))
    x = states().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, LABELS)[:, 1].sum(), x)
    v, step = torch.randn_like(x), 1e-5
    with torch.no_grad():
        difference = (network(x + step * v, LABELS) - network(x - step * v, LABELS))[:, 1].sum() / (2 * step)
    assert (gradient * v).sum().item() == pytest.approx(difference.item(), rel=1e-6)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="heads of width 3 do not divide a width of 8"):
        make(head_width=3)
    with pytest.raises(UserError, match="3 heads do not divide a width of 8"):
        make(head_width=None, num_heads=3)
    with pytest.raises(UserError, match="4 x 6 cannot be halved evenly at every resolution"):
        make(channel_multipliers=(1, 1, 1))
    with pytest.raises(UserError, match="num_blocks must be at least 1"):
        make(num_blocks=0)
    with pytest.raises(UserError, match=r"takes images \(B, 2, H, W\), not \(3, 1, 4, 6\)"):
        make()(states()[:, :1], LABELS)
    with pytest.raises(UserError, match="built without conditions"):
        make()(states(), LABELS, told())
    classifier = ADMClassifier((4, 6), 2, 3, **SMALL)
    with pytest.raises(UserError, match=r"takes images of shape \(2, 4, 6\), not \(2, 4, 4\)"):
        classifier(states()[..., :4], LABELS)
