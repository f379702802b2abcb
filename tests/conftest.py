"""Fixtures for tests of several rooms."""

from __future__ import annotations

import os
from collections.abc import Callable

# As in the command line, and before torch is imported: threads that wait sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Numbers are those of float32 on GPUs, too, which would round factors to TF32; programs that tests start inherit it.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import pytest
import torch
from torch import Tensor

from score_sde.common.noise import SampleNoise


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Stop the clock of `progress`, so that what is said does not depend on how busy the machine is."""
    monkeypatch.setattr("score_sde.common.progress._now", lambda: 0.0)


@pytest.fixture
def on_cpu(monkeypatch) -> None:
    """Compute on the CPU, also where there is a GPU: for models that lie there, and for numbers that are the CPU's."""
    monkeypatch.setattr("score_sde.common.distributed._chosen", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def one_generator(monkeypatch) -> torch.Generator:
    """Draw the noise of all examples at once: the same law as one generator an example, and quick for thousands."""
    generator = torch.Generator().manual_seed(0)

    def draw(self: SampleNoise, sampler: Callable[..., Tensor], like: Tensor) -> Tensor:
        return sampler(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)

    monkeypatch.setattr(SampleNoise, "_draw", draw)
    return generator
