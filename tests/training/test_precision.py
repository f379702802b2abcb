"""`auto` goes by the hardware, and bfloat16 changes a loss by no more than its rounding."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import NCSNpp, ScoreModel
from score_sde.sde import VPSDE
from score_sde.training.objectives import get_objective
from score_sde.training.precision import image_layout, training_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"avx2": True, "amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True, "amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_on_a_cpu(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert training_precision("auto", CPU) == expected
    assert training_precision("float32", CPU) == torch.float32
    assert training_precision("bfloat16", CPU) == torch.bfloat16


def test_auto_without_knowledge_of_the_cpu(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert training_precision("auto", CPU) == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_gpu(monkeypatch, native):
    """Emulated products do not count."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert training_precision("auto", GPU) == (torch.bfloat16 if native else torch.float32)


def test_unknown_precisions():
    with pytest.raises(UserError, match="no precision is called 'half'"):
        training_precision("half", CPU)


def test_channels_come_last_in_float32_on_a_cpu_alone():
    assert image_layout(torch.float32, CPU) == torch.channels_last
    for precision, device in ((torch.bfloat16, CPU), (torch.bfloat16, GPU), (torch.float32, GPU)):
        assert image_layout(precision, device) == torch.contiguous_format
        assert image_layout(precision, device, channels_last=True) == torch.channels_last
    assert image_layout(torch.float32, CPU, channels_last=False) == torch.contiguous_format


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_changes_the_loss_by_its_rounding(layout):
    """bfloat16 has a relative rounding error of 2^-9 = 0.2%, mostly independent from product to product: the loss, a
    mean over 16 images, moves by less than 1%, the gradient by less than 5% of its norm.
    """
    torch.manual_seed(0)
    network = NCSNpp(16, 3, channels=16, channel_multipliers=(1, 2), num_blocks=1, attention_resolutions=(8,),
                     dropout=0.0, init_scale=1.0)  # fmt: skip
    model = ScoreModel(network, VPSDE()).to(memory_format=layout)  # type: ignore[call-overload]
    x_0 = torch.randn(16, 3, 16, 16)
    objective = get_objective(model.sde, weighting="sigma2", times="uniform")
    results = []
    for reduced in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            loss = objective(model, Batch(x_0), BatchNoise(16, torch.Generator().manual_seed(1))).values.mean()
        assert loss.dtype == torch.float32
        gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        results.append((loss.item(), torch.cat([gradient.flatten() for gradient in gradients])))
    (exact_loss, gradient), (reduced_loss, reduced_gradient) = results
    assert 0 < abs(reduced_loss / exact_loss - 1) < 0.01
    assert (reduced_gradient - gradient).norm() < 0.05 * gradient.norm()
