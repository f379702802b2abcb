"""DiT along one, two and three axes: derivatives, places, causality, and what it hears of a condition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models import DiT
from score_sde.models.layers.condition import Picture, Tokens, Vector
from score_sde.models.layers.patches import places, to_patches
from score_sde.models.layers.transformer import ToTokens, TransformerBlock
from tests.models.networks.derivatives import check_derivatives

SIZES = {1: (7,), 2: (3, 6), 3: (3, 2, 5)}
LABELS = torch.tensor([-100.0, 3.0, 70.0], dtype=torch.float64)
KINDS = {"class": 4, "place": Vector(5), "caption": Tokens(6), "coarse": Picture(2)}


def make(dims: int = 2, **options: Any) -> Any:
    """Make a small network whose weights are all random, so that each matters."""
    torch.manual_seed(0)
    network = DiT(SIZES[dims], 2, **({"width": 24, "num_blocks": 2, "num_heads": 3} | options))
    for parameter in network.parameters():
        if parameter.ndim < 2 or not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return network.double()


def states(dims: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(dims)
    return torch.randn(3, 2, *SIZES[dims], dtype=torch.float64, generator=generator)


def told() -> Condition:
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(3, *shape, dtype=torch.float64, generator=generator)

    values = {"class": torch.tensor([1, 0, 3]), "place": drawn(5), "caption": drawn(4, 6), "coarse": drawn(2, 3, 6)}
    return Condition(values)


@pytest.mark.parametrize(
    ("dims", "options"),
    [(1, {}), (2, {"causal": True}), (2, {"activation_checkpointing": True}), (3, {"own_embeddings": True})],
    ids=str,
)
def test_derivatives_of_all_kinds(dims: int, options: dict[str, Any]) -> None:
    network, x = make(dims, **options).requires_grad_(False), states(dims)
    check_derivatives(network, x, LABELS)


def test_a_block_is_its_equations() -> None:
    torch.manual_seed(0)
    block: Any = TransformerBlock(8, 2, {"words": 5}).double()
    nn.init.normal_(block.modulation.weight)
    nn.init.normal_(block.to_tokens["words"].output.weight)
    h, embedding = torch.randn(2, 6, 8, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    words = torch.randn(2, 3, 5, dtype=torch.float64)

    def norm(y: Tensor) -> Tensor:
        return (y - y.mean(-1, True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        halves = zip(query.split(4, -1), key.split(4, -1), value.split(4, -1), strict=True)
        return torch.cat([torch.softmax(q @ k.mT / 2, -1) @ v for q, k, v in halves], -1)

    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = block.modulation(embedding)[:, None].split(8, -1)
    expected = h + gate_1 * block.output(attend(*block.query_key_value((1 + scale_1) * norm(h) + shift_1).split(8, -1)))
    to: ToTokens = block.to_tokens["words"]
    expected = expected + to.output(attend(to.query(norm(expected)), *to.key_value(words).split(8, -1)))
    inner = block.expand((1 + scale_2) * norm(expected) + shift_2)
    gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    expected = expected + gate_2 * block.contract(gelu)
    torch.testing.assert_close(block(h, embedding, {"words": words}), expected, rtol=1e-12, atol=1e-12)


def test_places_are_sines_and_cosines_of_the_last_axis_first() -> None:
    row, column, k = 2, 5, np.arange(3)
    angles = [number * 10_000.0 ** (-k / 3) for number in (column, row)]
    expected = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)])
    np.testing.assert_allclose(places((4, 7), 12)[row * 7 + column].numpy(), expected, rtol=1e-15)
    # A width that three axes do not share evenly ends in zeros; one axis has all of it.
    assert places((2, 2, 2), 16).shape == (8, 16)
    assert not places((2, 2, 2), 16)[:, 12:].any()
    np.testing.assert_allclose(places((9,), 4)[8].numpy(), [*np.sin([8, 0.08]), *np.cos([8, 0.08])], rtol=1e-15)


def test_patches_of_an_image_are_what_a_convolution_sees() -> None:
    torch.manual_seed(0)
    convolution: Any = nn.Conv2d(2, 5, 3, 3).double()
    x = torch.randn(2, 2, 6, 9, dtype=torch.float64)
    found = to_patches(x, 3) @ convolution.weight.flatten(1).T + convolution.bias
    torch.testing.assert_close(found, convolution(x).flatten(2).mT)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_causal_network_hears_of_what_lies_before_alone(dims: int) -> None:
    """What depends on what, by the derivative of each number of the output by each of the input."""
    network, x = make(dims, causal=True, patch_size=1), states(dims)[:1]
    jacobian = torch.func.jacrev(lambda y: network(y, LABELS[:1]))(x).squeeze(3).squeeze(0)
    count = math.prod(SIZES[dims])
    heard = jacobian.reshape(2, count, 2, count).abs().amax((0, 2)) > 0
    assert torch.equal(heard, torch.ones(count, count, dtype=torch.bool).tril())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding_is_done_inside(dims: int) -> None:
    """What does not fill its patches is what zeros make of it."""
    network, x = make(dims), states(dims)
    whole = DiT([length + length % 2 for length in SIZES[dims]], 2, width=24, num_blocks=2, num_heads=3).double()
    whole.load_state_dict(network.state_dict())
    around = [end for length in reversed(SIZES[dims]) for end in (0, length % 2)]
    expected = whole(nn.functional.pad(x, around), LABELS)
    torch.testing.assert_close(network(x, LABELS), expected[(..., *(slice(n) for n in SIZES[dims]))])


def test_what_is_hidden_is_not_heard_and_what_is_told_is() -> None:
    network, x, condition = make(conditions=KINDS), states(), told()
    nothing = network(x, LABELS)
    hidden = condition
    for name in KINDS:
        hidden = hidden.hidden(name)
    torch.testing.assert_close(network(x, LABELS, hidden), nothing, rtol=1e-12, atol=1e-12)
    for name in KINDS:
        alone = Condition({name: condition.values[name]})
        heard = network(x, LABELS, alone)
        assert all((heard - nothing).flatten(1).norm(dim=1) > 1e-3)
        second = torch.tensor([False, True, False])
        partly = network(x, LABELS, alone.hidden(name, second))
        torch.testing.assert_close(partly[~second], heard[~second], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(partly[second], nothing[second], rtol=1e-12, atol=1e-12)
        values = alone.values[name].clone()
        values[1] = 99 if name == "class" else torch.nan
        assert torch.equal(network(x, LABELS, Condition({name: values}).hidden(name, second)), partly)
    tokens = condition.values["caption"]
    turned = network(x, LABELS, Condition({"caption": tokens[:, [2, 0, 3, 1]]}))
    torch.testing.assert_close(turned, network(x, LABELS, Condition({"caption": tokens})), rtol=1e-12, atol=1e-12)


def test_a_picture_lies_beside_the_states() -> None:
    network, x, picture = make(conditions={"coarse": Picture(2)}), states(), told().values["coarse"]
    wide = DiT(SIZES[2], 5, 2, width=24, num_blocks=2, num_heads=3).double()
    wide.load_state_dict(network.state_dict())
    with_ones = torch.cat([x, picture, torch.ones_like(x[:, :1])], dim=1)
    torch.testing.assert_close(network(x, LABELS, Condition({"coarse": picture})), wide(with_ones, LABELS))


def test_compiled_recomputed_and_one_by_one_it_is_the_same() -> None:
    network, x, condition = make(conditions=KINDS), states(), told().hidden("caption", LABELS > 50)
    expected = network(x, LABELS, condition)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, LABELS, condition), expected)
    alone = [network(x[i : i + 1], LABELS[i : i + 1], condition[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), expected)
    recomputing = make(conditions=KINDS, activation_checkpointing=True)
    for one in (network, recomputing):
        one(x, LABELS, condition).square().sum().backward()
    for ours, theirs in zip(network.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_bfloat16_is_near() -> None:
    """By 8 bits of a number, some of them summed."""
    network, x = make().float(), states().float()
    expected = network(x, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x, LABELS)
    assert (found - expected).norm() < 2**-6 * expected.norm()
    assert network.shard_units() == list(network.blocks)


@torch.no_grad()
def test_it_answers_zero_at_first() -> None:
    for dims in (1, 2, 3):
        network = DiT(SIZES[dims], 2, width=24, num_blocks=2, num_heads=3, conditions={"caption": Tokens(6)})
        assert not network(states(dims).float(), LABELS.float()).any()


def test_mistakes() -> None:
    with pytest.raises(UserError, match="5 heads do not divide a width of 24"):
        make(num_heads=5)
    network, x = make(conditions=KINDS), states()
    with pytest.raises(UserError, match=r"takes examples of shape \(2, 3, 6\), not \(2, 7\)"):
        network(states(1), LABELS)
    with pytest.raises(UserError, match="built without conditions"):
        make()(x, LABELS, told())
    with pytest.raises(UserError, match="not told of 'style', but of: class, place, caption, coarse"):
        network(x, LABELS, Condition({"style": torch.tensor([0, 1, 2])}))
    with pytest.raises(UserError, match=r"'coarse' must be \(2, 3, 6\) real numbers for each example"):
        network(x, LABELS, Condition({"coarse": torch.zeros(3, 2, 7, 12)}))
