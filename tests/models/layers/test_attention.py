"""Attention: the fused kernel where it can be, the formula where derivatives ask for it, always the same numbers."""

import math

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from score_sde.models.layers.attention import SelfAttention, attention


class Operations(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))

    def fused(self):
        return [name for name in self.names if "flash_attention" in name or "efficient_attention" in name]


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return tuple(torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))


def formula(query, key, value):
    return torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]), dim=-1) @ value


def test_values_and_gradients_are_the_formulas_from_the_fused_kernel(inputs):
    weights = torch.randn(2, 5, 3, dtype=torch.float64)
    with Operations() as operations:
        result = attention(*inputs)
        gradients = torch.autograd.grad((result * weights).sum(), inputs)
    assert len(operations.fused()) == 2  # one forwards, one backwards
    expected = formula(*inputs)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weights).sum(), inputs))


def test_inference_uses_the_fused_kernel_alone(inputs):
    with torch.no_grad(), Operations() as operations:
        result = attention(*inputs)
    assert len(operations.fused()) == 1
    assert not any("softmax" in name for name in operations.names)
    torch.testing.assert_close(result, formula(*inputs))


def test_derivatives_of_every_kind(inputs):
    assert gradcheck(attention, inputs, check_forward_ad=True)
    assert gradgradcheck(attention, inputs)


def test_a_gradient_through_some_inputs_only(inputs):
    query, key, value = inputs
    for chosen in inputs:
        others = [tensor if tensor is chosen else tensor.detach() for tensor in (query, key, value)]
        (first,) = torch.autograd.grad(attention(*others).square().sum(), chosen, create_graph=True)
        (expected,) = torch.autograd.grad(formula(*others).square().sum(), chosen, create_graph=True)
        torch.testing.assert_close(first, expected)
        second = torch.autograd.grad(first.square().sum(), chosen)
        torch.testing.assert_close(second, torch.autograd.grad(expected.square().sum(), chosen))


def test_function_transforms(inputs):
    inputs = tuple(tensor.detach() for tensor in inputs)
    tangents = tuple(torch.randn(4, *tensor.shape, dtype=torch.float64) for tensor in inputs)

    def jvps(function):
        return torch.func.vmap(lambda *tangent: torch.func.jvp(function, inputs, tangent)[1])(*tangents)

    torch.testing.assert_close(jvps(attention), jvps(formula))
    hessians = [torch.func.hessian(lambda q, f=f: f(q, *inputs[1:]).sum())(inputs[0]) for f in (attention, formula)]
    torch.testing.assert_close(*hessians)
    per_example = torch.func.vmap(lambda *one: attention(*(tensor[None] for tensor in one))[0])(*inputs)
    torch.testing.assert_close(per_example, formula(*inputs))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(inputs[0], tangents[0][0])
        tangent = forward_ad.unpack_dual(attention(dual, *inputs[1:])).tangent
    expected = torch.func.jvp(lambda q: formula(q, *inputs[1:]), (inputs[0],), (tangents[0][0],))[1]
    torch.testing.assert_close(tangent, expected)


def test_block_attends_between_pixels_and_adds_the_result():
    torch.manual_seed(0)
    block = SelfAttention(8, init_scale=1.0, skip_rescale=True).double()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    pixels = block.norm(x).flatten(2).mT
    query, key, value = block.query_key_value(pixels).split(8, dim=-1)
    branch = block.output(formula(query, key, value)).mT.reshape(x.shape)
    torch.testing.assert_close(block(x), (x + branch) / math.sqrt(2))


def test_initial_weights():
    """Variance 0.1 / C for query, key and value; the output's scale is given."""
    torch.manual_seed(0)
    block = SelfAttention(256, init_scale=0.5)
    assert block.query_key_value.weight.var().item() == pytest.approx(0.1 / 256, rel=0.02)
    assert block.output.weight.var().item() == pytest.approx(0.5 / 256, rel=0.02)
