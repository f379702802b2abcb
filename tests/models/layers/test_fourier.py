"""Fourier features of the input: their numbers, and where every network for pictures has them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from score_sde.models import DDPM, DiT, NCSNpp, UNet
from score_sde.models.layers.fourier import with_fourier_features

SIZE: dict[str, Any] = {"channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "dropout": 0.0}
NETWORKS = {
    "unet": lambda **more: UNet(2, **SIZE, **more),
    "ncsnpp": lambda **more: NCSNpp(4, 2, **SIZE, attention_resolutions=(), **more),
    "ddpm": lambda **more: DDPM(4, 2, **{**SIZE, "channels": 32}, attention_resolutions=(), **more),
    "dit": lambda **more: DiT(4, 2, width=16, num_blocks=1, num_heads=2, **more),
}
FIRST = {"unet": "conv_in", "ncsnpp": "conv_in", "ddpm": "conv_in", "dit": "input"}


def test_they_are_sines_and_cosines_of_octaves() -> None:
    x = torch.tensor([[[0.3], [-0.6]]], dtype=torch.float64)
    values = [f(2**n * math.pi * v) for f in (math.sin, math.cos) for n in (0, 3) for v in (0.3, -0.6)]
    expected = torch.tensor([0.3, -0.6, *values], dtype=torch.float64)
    torch.testing.assert_close(with_fourier_features(x, (0, 3))[0, :, 0], expected, rtol=1e-14, atol=1e-14)
    assert with_fourier_features(x, ()) is x


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("which", range(3))
def test_a_network_that_looks_at_one_of_them_is_one_that_is_given_it(name: str, which: int) -> None:
    """The first layer looks at nothing but `x`, its sine or its cosine: the plain network of that."""
    torch.manual_seed(0)
    plain, told = NETWORKS[name](), NETWORKS[name](input_frequencies=(1,))
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.1)
    state, first = dict(plain.state_dict()), f"{FIRST[name]}.weight"
    weight = state[first]
    # Of a patch, each channel has all positions, one after another.
    parts: list[Tensor] = [torch.zeros_like(weight)] * 3
    parts[which] = weight
    state[first] = torch.cat(parts, 1)
    told.load_state_dict(state)
    x, label = torch.rand(3, 2, 4, 4) - 0.5, torch.tensor([1.0, 50.0, 900.0])
    given = (x, torch.sin(2 * math.pi * x), torch.cos(2 * math.pi * x))[which]
    torch.testing.assert_close(told(x, label), plain(given, label), rtol=1e-5, atol=1e-5)
