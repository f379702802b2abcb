"""The U-Net for one, two and three axes: derivatives, padding, periodic axes, and what it hears of a condition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models import MLP, UNet
from score_sde.models.layers.attention import CrossAttention
from score_sde.models.layers.condition import Picture, Tokens, Vector
from score_sde.models.layers.resampling import Downsample, Upsample
from score_sde.models.layers.residual import ResidualBlock
from score_sde.models.layers.space import Space
from tests.models.networks.derivatives import check_derivatives

SIZES = {1: (13,), 2: (7, 13), 3: (3, 4, 5)}
LABELS = torch.tensor([-100.0, 3.0, 70.0], dtype=torch.float64)
KINDS = {"class": 4, "place": Vector(5), "caption": Tokens(6), "coarse": Picture(2)}


def make(dims: int, **options: Any) -> Any:
    """Make a small network whose weights are all random, so that each matters."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"dims": dims, "channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1}
    network = UNet(2, **(small | options))
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2 or "output" in name or "conv_out" in name or "head" in name:
            nn.init.normal_(parameter, std=0.3)
    return network.double()


def states(dims: int, *size: int) -> Tensor:
    generator = torch.Generator().manual_seed(dims)
    return torch.randn(3, 2, *(size or SIZES[dims]), dtype=torch.float64, generator=generator)


def told(size: tuple[int, ...] = (7, 13)) -> Condition:
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(3, *shape, dtype=torch.float64, generator=generator)

    values = {"class": torch.tensor([1, 0, 3]), "place": drawn(5), "caption": drawn(4, 6), "coarse": drawn(2, *size)}
    return Condition(values)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"periodic": True}, {"activation_checkpointing": True}], ids=str)
def test_derivatives_of_all_kinds(dims: int, options: dict[str, Any]) -> None:
    if "periodic" in options:
        options = {"periodic": (True, *[False] * (dims - 1))}
    network = make(dims, **options).requires_grad_(False)
    x = states(dims)
    check_derivatives(network, x, LABELS)


def test_a_plane_of_one_row_is_a_line() -> None:
    """A 2-D block whose kernels have but their middle row is the 1-D block, and so is one of a volume."""
    torch.manual_seed(0)
    line: Any = ResidualBlock(8, 12, 5, init_scale=1.0, space=Space((False,))).double()
    x, embedding = torch.randn(3, 8, 9, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    for extra in (1, 2):
        block: Any = ResidualBlock(8, 12, 5, init_scale=1.0, space=Space((False,) * (1 + extra))).double()
        weights = line.state_dict()
        for _ in range(extra):
            for name in ("conv_in.weight", "conv_out.weight"):
                weights[name] = F.pad(weights[name].unsqueeze(2), (0, 0) * (weights[name].ndim - 2) + (1, 1))
            weights["shortcut.weight"] = weights["shortcut.weight"].unsqueeze(2)
        block.load_state_dict(weights)
        of_row = block(x.reshape(3, 8, *(1,) * extra, 9), embedding).reshape(3, 12, 9)
        torch.testing.assert_close(of_row, line(x, embedding), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_halving_takes_means_and_doubling_repeats(dims: int) -> None:
    space = Space((False,) * dims)
    x = states(dims, *(4, 6, 8)[:dims])
    mean, repeated = x, x
    for axis in range(2, 2 + dims):
        mean = mean.unflatten(axis, (-1, 2)).mean(axis + 1)
        repeated = repeated.repeat_interleave(2, axis)
    torch.testing.assert_close(Downsample(space=space)(x), mean)
    assert torch.equal(Upsample()(x), repeated)


@pytest.mark.parametrize(
    ("periodic", "size"),
    [((True,), (12,)), ((True, False), (8, 5)), ((False, True), (5, 8)), ((True, False, True), (4, 3, 2))],
)
def test_a_shift_along_a_periodic_axis_commutes(periodic: tuple[bool, ...], size: tuple[int, ...]) -> None:
    """It does for shifts by what halving takes together, and along no other axis."""
    network = make(len(size), periodic=periodic)
    x = states(len(size), *size)
    output = network(x, LABELS)
    for axis, closed in enumerate(periodic, start=2):
        change = (network(x.roll(2, axis), LABELS) - output.roll(2, axis)).abs().max().item()
        assert change < 1e-12 if closed else change > 1e-3


@pytest.mark.parametrize(("periodic", "mode"), [((False, False), "constant"), ((True, True), "circular")])
def test_padding_is_done_inside(periodic: tuple[bool, bool], mode: str) -> None:
    """An odd size is what the next multiple makes of it, with zeros around, or the beginning again."""
    network = make(2, periodic=periodic, channel_multipliers=(1, 1, 2))
    x = states(2)
    assert network.size_multiple == 4
    around = (0, 3, 0, 1) if mode == "circular" else (1, 2, 0, 1)
    padded = network(F.pad(x, around, mode=mode), LABELS)
    first = around[0]
    assert torch.equal(network(x, LABELS), padded[:, :, :7, first : first + 13])


def test_the_halves_make_the_whole_and_features_can_be_changed() -> None:
    network, x, condition = make(2, conditions=KINDS), states(2), told()
    heard = network.hear(x, LABELS, condition)
    features = network.encode(x, heard)
    assert torch.equal(network.decode(features, heard), network(x, LABELS, condition))
    assert len(features.maps) == 1 + len(network.encoder) + 1
    for index in range(len(features.maps)):
        maps = list(features.maps)
        maps[index] = maps[index] + 1.0
        assert not torch.equal(
            network.decode(features._replace(maps=tuple(maps)), heard), network(x, LABELS, condition)
        )


def test_what_is_hidden_is_not_heard_and_what_is_told_is() -> None:
    network, x, condition = make(2, conditions=KINDS), states(2), told()
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


def test_the_order_of_tokens_does_not_matter_and_their_values_do() -> None:
    network, x = make(2, conditions={"caption": Tokens(6)}), states(2)
    tokens = told().values["caption"]
    output = network(x, LABELS, Condition({"caption": tokens}))
    turned = network(x, LABELS, Condition({"caption": tokens[:, [2, 0, 3, 1]]}))
    torch.testing.assert_close(turned, output, rtol=1e-12, atol=1e-12)
    assert (network(x, LABELS, Condition({"caption": tokens[:, :3]})) - output).norm() > 1e-3


def test_attention_to_tokens_is_the_formula() -> None:
    torch.manual_seed(0)
    block: Any = CrossAttention(8, 5, init_scale=1.0).double()
    x, tokens = torch.randn(2, 8, 3, 4, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    query = block.query(block.norm(x).flatten(2).mT)
    key, value = block.key_value(tokens).split(8, dim=-1)
    mixed = torch.softmax(query @ key.mT / 8**0.5, dim=-1) @ value
    torch.testing.assert_close(block(x, tokens), x + block.output(mixed).mT.reshape(x.shape))


def test_a_picture_lies_beside_the_states() -> None:
    """The network of a picture is that of more channels: the states', the picture's, and ones."""
    network, x = make(2, conditions={"coarse": Picture(2)}), states(2)
    plain: Any = make(2)
    wide = UNet(5, 2, channels=8, channel_multipliers=(1, 2), num_blocks=1).double()
    wide.load_state_dict(network.state_dict())
    picture = told().values["coarse"]
    with_ones = torch.cat([x, picture, torch.ones_like(x[:, :1])], dim=1)
    torch.testing.assert_close(network(x, LABELS, Condition({"coarse": picture})), wide(with_ones, LABELS))
    assert plain.conv_in.in_channels == 2


def test_conditions_go_through_derivatives_and_compilation() -> None:
    network, x, condition = make(2, conditions=KINDS).requires_grad_(False), states(2), told()
    condition = condition.hidden("caption", torch.tensor([True, False, False]))
    value, tangent = torch.func.jvp(lambda y: network(y, LABELS, condition), (x,), (x,))  # type: ignore[misc]
    torch.testing.assert_close(value, network(x, LABELS, condition))
    pull_back = torch.func.vjp(lambda y: network(y, LABELS, condition), x)[1]
    torch.testing.assert_close((pull_back(value)[0] * x).sum(), (tangent * value).sum())
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, LABELS, condition), value)


def test_examples_do_not_depend_on_each_other() -> None:
    network, x, condition = make(2, conditions=KINDS), states(2), told()
    alone = [network(x[i : i + 1], LABELS[i : i + 1], condition[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(network(x, LABELS, condition), torch.cat(alone))


@torch.no_grad()
def test_starts_at_zero() -> None:
    for dims in (1, 2, 3):
        network = UNet(2, dims=dims, channels=8, channel_multipliers=(1, 2), num_blocks=1)
        assert network(states(dims).float(), LABELS.float()).std().item() < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "examples of 1, 2 or 3 axes, not 4"),
        ({"num_blocks": 0}, "one resolution and one block or more, not 2 and 0"),
        ({"periodic": (True,)}, r"True or False for each of the 2 axes, not \(True,\)"),
        ({"periodic": (0, 1)}, r"True or False for each of the 2 axes, not \(0, 1\)"),
        ({"attention_depths": (2,)}, "no resolution 2 among 2, from 0"),
        (
            {"attention_depths": (), "conditions": KINDS},
            "caption: tokens are attended to, and attention_depths is empty",
        ),
    ],
)
def test_mistakes_in_the_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**({"dims": 2} | options))


def test_mistakes_in_the_input() -> None:
    network, x = make(2, conditions=KINDS), states(2)
    with pytest.raises(UserError, match=r"takes pictures or fields \(B, 2, H, W\), not \(3, 2, 13\)"):
        network(states(1), LABELS)
    with pytest.raises(UserError, match=r"takes series \(B, 2, L\), not \(3, 1, 13\)"):
        make(1)(states(1)[:, :1], LABELS)
    with pytest.raises(UserError, match="built without conditions"):
        make(2)(x, LABELS, told())
    wrong = {
        "class": (torch.tensor([0, 1, 4]), "'class' must be one whole number from 0 to 3"),
        "place": (
            torch.zeros(3, 4),
            r"'place' must be \(5,\) real numbers for each example, not \(4,\) of torch.float32",
        ),
        "caption": (torch.zeros(3, 0, 6), r"'caption' must be \(N, 6\) real numbers for each example, not \(0, 6\)"),
        "coarse": (torch.zeros(3, 2, 7, 12), r"'coarse' must be \(2, 7, 13\) real numbers for each example"),
        "style": (torch.tensor([0, 1, 2]), "not told of 'style', but of: class, place, caption, coarse"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(UserError, match=message):
            network(x, LABELS, Condition({name: value}))
    with pytest.raises(UserError, match=r"'place' must be \(5,\) real numbers"):
        network(x, LABELS, Condition({"place": torch.zeros(3, 5, dtype=torch.long)}))
    with pytest.raises(UserError, match="one of 2 examples, not of 3"):
        network(x, LABELS, told()[:2])


def test_other_networks_hear_vectors_but_no_tokens() -> None:
    network = MLP(3, conditions={"place": Vector(5)}).double()
    nn.init.normal_(network.output.weight)
    x, place = torch.zeros(2, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    nothing, heard = network(x, LABELS[:2]), network(x, LABELS[:2], Condition({"place": place}))
    assert (heard - nothing).abs().min() > 1e-6
    assert torch.equal(network(x, LABELS[:2], Condition({"place": place}).hidden("place")), nothing)
    with pytest.raises(UserError, match=r"not 'caption', which is of Tokens\(width=6\): take a UNet"):
        MLP(3, conditions={"caption": Tokens(6)})
