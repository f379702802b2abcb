"""Controls beside a frozen network: at first nothing, then sums, and never a change of the network itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models import DDPM, ControlNet, DiT, UNet
from score_sde.models.layers.basic import with_more_inputs
from score_sde.models.layers.condition import Kind, Picture, Tokens
from tests.models.networks.derivatives import check_derivatives

LABELS = torch.tensor([-100.0, 3.0, 70.0], dtype=torch.float64)
KINDS: dict[str, Kind] = {"class": 4, "caption": Tokens(6), "coarse": Picture(2)}
SIZES = {"unet": (7, 6), "series": (9,), "periodic": (7, 6), "dit": (7, 6)}
CONTROLS = {"edges": 1, "depth": 2}


def base(kind: str, **options: Any) -> Any:
    """Make a small network whose weights are all random, so that each matters."""
    torch.manual_seed(0)
    if kind == "dit":
        network: nn.Module = DiT(SIZES[kind], 2, width=12, num_blocks=3, num_heads=2, conditions=KINDS, **options)
    else:
        closed = (True, False) if kind == "periodic" else ()
        small: dict[str, Any] = {"channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "periodic": closed}
        network = UNet(2, dims=len(SIZES[kind]), conditions=KINDS, **small, **options)
    return random(network)


def random(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.double()


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def told(kind: str, *names: str) -> Condition:
    size = SIZES[kind]
    values = {"class": torch.tensor([1, 0, 3]), "caption": drawn(1, 4, 6), "coarse": drawn(2, 2, *size)}
    return Condition(values | {name: drawn(len(name), CONTROLS[name], *size) for name in names})


@pytest.mark.parametrize("kind", SIZES)
def test_training_begins_at_the_network_to_the_bit(kind):
    """It does in training mode, too, where controls drop activations and the network does not."""
    network = base(kind, **({} if kind == "dit" else {"dropout": 0.5})).eval().requires_grad_(False)
    x = drawn(3, 2, *SIZES[kind])
    plain, free = network(x, LABELS, told(kind)), network(x, LABELS)
    controlled: Any = ControlNet(network, CONTROLS).train()
    # What wants gradients may be computed by other kernels, which round otherwise.
    with torch.no_grad():
        assert torch.equal(controlled(x, LABELS, told(kind, *CONTROLS)), plain)
        assert torch.equal(controlled(x, LABELS), free)
    controlled(x, LABELS, told(kind, "edges", "depth")).square().mean().backward()
    assert not any(parameter.requires_grad for parameter in controlled.base.parameters())
    for control in controlled.controls.values():
        gradients = [parameter.grad for name, parameter in control.named_parameters() if name.startswith("zero.")]
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("kind", SIZES)
def test_what_is_hidden_or_at_scale_0_adds_nothing(kind):
    controlled: Any = ControlNet(base(kind), CONTROLS)
    random(controlled.controls)
    x, every = drawn(3, 2, *SIZES[kind]), told(kind, *CONTROLS)
    plain = controlled.base(x, LABELS, told(kind))
    assert torch.equal(controlled.at({"edges": 0.0, "depth": 0.0})(x, LABELS, every), plain)
    assert torch.equal(controlled(x, LABELS, told(kind)), plain)
    rows = torch.tensor([True, False, True])
    values = {
        **every.values,
        "edges": torch.where(rows.view(3, *(1,) * (x.ndim - 1)), torch.nan, every.values["edges"]),
    }
    partly = controlled(x, LABELS, Condition(values).hidden("edges", rows).hidden("depth"))
    assert torch.equal(partly[rows], plain[rows])
    of_edges = controlled.at({"depth": 0.0})(x, LABELS, every)
    torch.testing.assert_close(partly[~rows], of_edges[~rows], rtol=0, atol=1e-12)
    assert (of_edges - plain).abs().amax() > 1e-3


@pytest.mark.parametrize("kind", SIZES)
def test_controls_are_added_up_at_their_scales(kind):
    """What two add is `2 r_edges - r_depth`, before the decoder, each seen by itself."""
    controlled: Any = ControlNet(base(kind), CONTROLS)
    random(controlled.controls)
    x, every = drawn(3, 2, *SIZES[kind]), told(kind, *CONTROLS)
    edges, depth = (controlled.controls[name](x, LABELS, every) for name in CONTROLS)
    added = [2.0 * a + -1.0 * b for a, b in zip(edges, depth, strict=True)]
    network = controlled.base
    if kind == "dit":
        wanted = network(x, LABELS, told(kind), added)
    else:
        heard = network.hear(x, LABELS, told(kind))
        maps, size = network.encode(x, heard)
        wanted = network.decode(type(network.encode(x, heard))(tuple(map(torch.add, maps, added)), size), heard)
    assert torch.equal(controlled.at({"edges": 2.0, "depth": -1.0})(x, LABELS, every), wanted)
    apart: Any = ControlNet(network, {})
    for control in controlled.controls.values():
        apart.add(control)
    assert torch.equal(apart(x, LABELS, every), controlled(x, LABELS, every))


def test_a_transformer_hears_its_control_after_each_of_the_first_blocks() -> None:
    """With all but one of the maps zero, the output is that of the blocks gone through by hand."""
    network = base("dit")
    x, condition, more = drawn(3, 2, 7, 6), told("dit"), drawn(4, 12, 12)
    h, heard, tokens = network._begin(x, LABELS, condition)
    h = network.blocks[0](h, heard[0], tokens)
    h = network.blocks[1](h, heard[0], tokens) + more
    assert torch.equal(h, network.features(x, LABELS, condition)[1] + more)
    h = network.blocks[2](h, heard[0], tokens)
    shift, scale = network.modulation(heard[0])[:, None].chunk(2, dim=-1)
    output = network.output(network.norm(h) * (1 + scale) + shift)
    by_hand = output.reshape(3, 4, 3, 2, 2, 2).permute(0, 5, 1, 3, 2, 4).reshape(3, 2, 8, 6)[:, :, :7]
    torch.testing.assert_close(network(x, LABELS, condition, [torch.zeros_like(more), more]), by_hand)


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 4, 3, padding=1), nn.Linear(3, 4)], ids=["conv", "linear"])
def test_further_inputs_are_not_heard_at_first(layer):
    layer = layer.double()
    wider: Any = with_more_inputs(layer, 2)
    axis = 1 if isinstance(layer, nn.Conv1d) else -1
    x, more = (drawn(5, count, 6) if axis == 1 else drawn(5, 6, count) for count in (3, 2))
    torch.testing.assert_close(wider(torch.cat([x, more], axis)), layer(x), rtol=0, atol=1e-12)
    with torch.no_grad():
        wider.weight[:, 3:] = 1.0
    heard = more.sum(axis, keepdim=True)
    if axis == 1:
        heard = heard + nn.functional.pad(heard, (1, 0))[..., :-1] + nn.functional.pad(heard, (0, 1))[..., 1:]
    torch.testing.assert_close(wider(torch.cat([x, more], axis)), layer(x) + heard)


@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}], ids=["kept", "recomputed"])
def test_derivatives_of_all_kinds(options):
    controlled: Any = ControlNet(base("unet", **options), CONTROLS)
    random(controlled.controls)
    condition = told("unet", *CONTROLS)
    controlled.requires_grad_(False)
    check_derivatives(partial(controlled, condition=condition), drawn(3, 2, 7, 6), LABELS)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="controls stand beside a UNet or a DiT, not beside DDPM"):
        ControlNet(DDPM(8, 1, channels=8, channel_multipliers=(1,), num_blocks=1), CONTROLS)
    with pytest.raises(UserError, match="cannot be called 'coarse'"):
        ControlNet(base("unet"), {"coarse": 2})
    with pytest.raises(UserError, match="cannot be called 'keys'"):
        ControlNet(base("unet"), {"keys": 2})
    controlled: Any = ControlNet(base("unet"), CONTROLS)
    x = drawn(3, 2, 7, 6)
    with pytest.raises(UserError, match=r"'edges' must be \(1, 7, 6\) real numbers for each example, not \(2, 7, 6\)"):
        controlled(x, LABELS, Condition({"edges": drawn(1, 2, 7, 6)}))
    with pytest.raises(UserError, match="this network is not told of 'sketch', but of: class, caption, coarse, edges"):
        controlled(x, LABELS, Condition({"sketch": drawn(1, 1, 7, 6)}))
