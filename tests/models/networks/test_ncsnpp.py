"""What NCSN++ and DDPM promise beside their values (those are checked in pretrained/test_score_sde.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models import DDPM, NCSNpp

# A little of everything: filters, attention, an input and an output pyramid, Fourier features, division by sigma.
OPTIONS: dict[str, Any] = {
    "channels": 8,
    "channel_multipliers": (1, 2),
    "num_blocks": 1,
    "attention_resolutions": (4,),
    "dropout": 0.0,
    "embedding": "fourier",
    "fir": True,
    "progressive": "output_skip",
    "progressive_input": "residual",
    "init_scale": 1.0,
    "scale_by_sigma": True,
}


def make(**options) -> Any:
    torch.manual_seed(0)
    return NCSNpp(8, 1, **(OPTIONS | options)).double()


@pytest.fixture
def x():
    return torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.tensor([0.05, 0.7, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}], ids=["kept", "recomputed"])
def test_derivatives_agree_with_each_other_and_with_differences(options, x, labels):
    network = make(**options).requires_grad_(False)
    v = torch.randn_like(x)

    def function(y):
        return network(y, labels)

    forward = torch.func.jvp(function, (x,), (v,))[1]
    step = 1e-5
    differences = (function(x + step * v) - function(x - step * v)) / (2 * step)
    assert (forward - differences).norm() < 1e-7 * forward.norm()

    y = x.clone().requires_grad_()
    (backward,) = torch.autograd.grad(function(y), y, v, create_graph=True)
    assert (backward * v).sum().item() == pytest.approx((forward * v).sum().item(), rel=1e-10)

    # Twice backward, and forward over backward: both are the Hessian of v . f times v.
    (twice,) = torch.autograd.grad((backward * v).sum(), y)

    def projection(z):
        return (function(z) * v).sum()

    over = torch.func.jvp(torch.func.grad(projection), (x,), (v,))[1]
    torch.testing.assert_close(twice, over, rtol=1e-9, atol=1e-9 * over.abs().max().item())


def test_batches_of_derivatives(x, labels):
    network = make().requires_grad_(False)
    vectors = torch.randn(4, *x.shape, dtype=torch.float64)

    def derivative(v):
        return torch.func.jvp(lambda y: network(y, labels), (x,), (v,))[1]

    torch.testing.assert_close(torch.func.vmap(derivative)(vectors), torch.stack([derivative(v) for v in vectors]))


def test_examples_do_not_depend_on_each_other(x, labels):
    network = make()
    alone = torch.cat([network(x[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, labels), alone)


def gradients_and_bytes_kept(network, x, labels):
    """Gradients of the parameters, and the bytes kept for the backward pass."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.manual_seed(2)
        loss = network(x, labels).square().sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.requires_grad}
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    return gradients, sum(storages.values()) - parameters


def test_activation_checkpointing_keeps_less_and_changes_nothing(x, labels):
    """Dropout included: the same activations are dropped again."""
    x, labels = x.repeat(4, 1, 1, 1), labels.repeat(4)
    kept, kept_bytes = gradients_and_bytes_kept(make(dropout=0.3, num_blocks=2), x, labels)
    again, again_bytes = gradients_and_bytes_kept(
        make(dropout=0.3, num_blocks=2, activation_checkpointing=True), x, labels
    )
    torch.testing.assert_close(kept, again)
    assert again_bytes < 0.5 * kept_bytes


def test_compiled_whole(x, labels):
    """One graph, without a break, forwards and backwards."""
    network = make()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    y = x.clone().requires_grad_()
    output = compiled(y, labels)
    torch.testing.assert_close(output, network(x, labels))
    (gradient,) = torch.autograd.grad(output.square().sum(), y)
    z = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(network(z, labels).square().sum(), z)[0])


def test_channels_last_stays_and_changes_nothing(x, labels):
    network, last = make(), make().to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x, labels), last(x.to(memory_format=torch.channels_last), labels))
    layouts = []
    for module in last.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels > 1 and module.out_channels > 1:
            module.register_forward_hook(
                lambda _, inputs, output: layouts.append(
                    inputs[0].is_contiguous(memory_format=torch.channels_last)
                    and output.is_contiguous(memory_format=torch.channels_last)
                )
            )
    last(x.to(memory_format=torch.channels_last), labels)
    assert len(layouts) > 10
    assert all(layouts)


def test_derivatives_with_channels_last_are_those_without(x, labels):
    network, last = make(), make().to(memory_format=torch.channels_last)
    z = x.to(memory_format=torch.channels_last)
    expected = torch.func.jvp(lambda x: network(x, labels), (x,), (x,))[1]
    torch.testing.assert_close(torch.func.jvp(lambda x: last(x, labels), (z,), (z,))[1], expected)
    pull_back = torch.func.vjp(lambda x: last(x, labels), z)[1]
    directions = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.vmap(lambda v: pull_back(v)[0])(directions)[0],
        torch.func.vjp(lambda x: network(x, labels), x)[1](x)[0],
    )


def test_autocast_is_near_float32(x, labels):
    network = make().float()
    x, labels = x.float(), labels.float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(x, labels)
    expected = network(x, labels)
    assert (low - expected).norm() < 0.03 * expected.norm()


def test_classes_change_the_output_and_hidden_ones_do_not(x, labels):
    network = make(conditions={"class": 10})
    nn.init.normal_(network.embedding.condition.vectors["class"].weight)
    plain = network(x, labels)
    given = Condition({"class": torch.tensor([3, 3, 5])})
    assert torch.equal(network(x, labels, given.hidden("class")), plain)
    one = network(x, labels, given.hidden("class", torch.tensor([False, True, True])))
    torch.testing.assert_close(one[1:], plain[1:])
    assert (one[0] - plain[0]).norm() > 0.01 * plain[0].norm()
    for wrong in (torch.tensor([0, 3, 10]), torch.tensor([0, 3, -1]), torch.tensor([0.0, 3.0, 9.0])):
        with pytest.raises(UserError, match="'class' must be one whole number from 0 to 9 for each example"):
            network(x, labels, Condition({"class": wrong}))
    with pytest.raises(UserError, match="not told of 'style', but of: class"):
        network(x, labels, Condition({"style": torch.tensor([0, 0, 0])}))
    with pytest.raises(UserError, match="one of 2 examples, not of 3"):
        network(x, labels, given[:2])


def test_a_condition_goes_through_compilation_and_derivatives(x, labels):
    network = make(conditions={"class": 10, "distorted": 1})
    for vectors in network.embedding.condition.vectors.values():
        nn.init.normal_(vectors.weight)
    numbers, hidden = torch.tensor([3, 0, 5]), torch.tensor([True, False, False])
    condition = Condition({"class": numbers, "distorted": 0 * numbers}, {"distorted": hidden})
    expected = network(x, labels, condition)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, labels, condition), expected)
    rows = torch.tensor([0, 0, 1])
    torch.testing.assert_close(compiled(x, labels, condition[rows]), network(x, labels, condition[rows]))
    value, tangent = torch.func.jvp(lambda x: network(x, labels, condition), (x,), (x,))  # type: ignore[misc]
    torch.testing.assert_close(value, expected)
    pull_back = torch.func.vjp(lambda x: network(x, labels, condition), x)[1]
    torch.testing.assert_close((pull_back(expected)[0] * x).sum(), (tangent * expected).sum())


def test_output_channels(x, labels):
    for progressive in ("none", "output_skip", "residual"):
        network = NCSNpp(8, 1, 17, **(OPTIONS | {"progressive": progressive})).double()
        assert network(x, labels).shape == (3, 17, 8, 8)


def test_division_by_sigma(x, labels):
    """By the label, or by the table's entry at the label, rounded down."""
    torch.testing.assert_close(
        make()(x, labels) * labels[:, None, None, None], make(scale_by_sigma=False)(x, labels), rtol=1e-12, atol=0
    )
    table = [8.0, 2.0, 0.5]
    rungs = torch.tensor([0.0, 1.0, 2.9], dtype=torch.float64)
    divided = make(embedding="positional", sigmas=table)(x, rungs)
    plain = make(embedding="positional", scale_by_sigma=False)(x, rungs)
    torch.testing.assert_close(divided * torch.tensor(table).double()[:, None, None, None], plain, rtol=1e-12, atol=0)


def test_uncentred_images_are_centred_first(x, labels):
    torch.testing.assert_close(make(centered=False)(x, labels), make()(2 * x - 1, labels))


@torch.no_grad()
def test_zero_initial_scale_starts_at_zero(x):
    """Every branch ends in weights of variance 1e-10 * 2 / (fan_in + fan_out), and so does the network."""
    labels = torch.tensor([0.0, 100.0, 900.0])
    for network in (NCSNpp(8, 1, channels=8, channel_multipliers=(1, 2), num_blocks=1), DDPM(8, 1, channels=32)):
        assert network(x.float(), labels).std().item() < 1e-4


def test_initial_weights():
    torch.manual_seed(0)
    network: Any = NCSNpp(8, 1, channels=64, channel_multipliers=(1, 2), num_blocks=1, init_scale=0.25, block="ddpm")
    residual = network.encoder[1].blocks[0].residual
    assert residual.conv_in.weight.var().item() == pytest.approx(2 / (9 * (64 + 128)), rel=0.02)
    assert residual.conv_out.weight.var().item() == pytest.approx(0.25 / (9 * 128), rel=0.02)
    assert residual.shortcut.weight.var().item() == pytest.approx(0.1 * 2 / (64 + 128), rel=0.04)
    assert network.embedding.hidden.weight.var().item() == pytest.approx(2 / (64 + 256), rel=0.02)
    assert residual.conv_in.bias.abs().max().item() == 0


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (24, 6), (128, 32), (144, 24)])
def test_groups_divide_the_channels(channels, groups):
    """As many as divide them, at most 32, at least 4 channels in each; 32 in DDPM at its widths."""
    network: Any = NCSNpp(8, 1, channels=channels, channel_multipliers=(1,), num_blocks=1)
    assert network.head.norm.num_groups == groups
    ddpm: Any = DDPM(8, 1, channels=64, channel_multipliers=(1,), num_blocks=1)
    assert ddpm.head.norm.num_groups == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_multipliers": (1, 1, 1, 1, 1)}, "8 x 8 cannot be halved evenly .* multiples of 16"),
        ({"embedding": "sinusoidal"}, "no embedding is called 'sinusoidal'"),
        ({"block": "resnet"}, "no block is called 'resnet'"),
        ({"progressive": "input_skip"}, "no progressive is called 'input_skip'"),
        ({"progressive_input": "skip"}, "no progressive_input is called 'skip'"),
        ({"combine": "add"}, "no combine is called 'add'"),
        ({"time_conditional": False, "conditions": {"class": 3}}, "conditions need time_conditional"),
        ({"embedding": "positional"}, "scale_by_sigma with a positional embedding needs the table of sigmas"),
        ({"num_blocks": 0}, "num_blocks must be at least 1"),
        ({"fir_kernel": ()}, "fir_kernel must be"),
    ],
)
def test_mistakes_in_the_arguments(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_mistakes_in_the_input(x, labels):
    network = make()
    with pytest.raises(UserError, match="7 x 8 cannot be halved evenly"):
        network(x[:, :, :7], labels)
    with pytest.raises(UserError, match=r"takes images \(B, 1, H, W\), not \(3, 2, 8, 8\)"):
        network(x.repeat(1, 2, 1, 1), labels)
    for unconditional in (network, make(time_conditional=False)):
        with pytest.raises(UserError, match="built without conditions"):
            unconditional(x, labels, Condition({"class": torch.tensor([0, 1, 2])}))


def test_attention_belongs_to_a_level_not_to_a_resolution(x, labels):
    """A network built for 8 x 8 takes other sizes, oblong ones too, as one built for them would."""
    network, larger = make(), NCSNpp(16, 1, **(OPTIONS | {"attention_resolutions": (8,)})).double()
    larger.load_state_dict(network.state_dict())
    for image in (torch.cat([x, x], dim=3), x[:, :, :6, :4]):
        torch.testing.assert_close(network(image, labels), larger(image, labels))
