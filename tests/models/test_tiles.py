"""Decoding tile by tile against decoding the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from score_sde.models import autoencoder
from score_sde.models.autoencoder import KLAutoencoder, VQAutoencoder
from score_sde.models.decoded import Normal
from score_sde.models.layers.space import Space
from score_sde.models.networks.autoencoder import ConvDecoder
from score_sde.models.tiles import decode_in_tiles

DOUBLE = torch.float64


def decoder(dims: int) -> ConvDecoder:
    torch.manual_seed(0)
    made = ConvDecoder(2, 1, Space((False,) * dims), 4, (1, 2), 1).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def latents(*size: int) -> Tensor:
    return torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


@pytest.mark.parametrize("overlap", [0, 2, 4])
def test_shares_of_neighbours_add_up_to_one(overlap: int) -> None:
    """What every tile agrees on, such as repeated latents, stays as it is, whatever the sizes."""

    def repeated(z: Tensor) -> Tensor:
        return z.repeat_interleave(3, 2).repeat_interleave(3, 3)

    z = latents(13, 9)
    torch.testing.assert_close(decode_in_tiles(repeated, z, 3, 4, overlap), repeated(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(31,), (18, 25)])
def test_tiles_that_overlap_by_what_a_latent_is_felt_are_the_whole(size: tuple[int, ...]) -> None:
    network, z = decoder(len(size)), latents(*size)
    with torch.no_grad():
        whole, tiles = network(z), decode_in_tiles(network, z, 2, 2 * network.radius, 2 * network.radius)
        few = decode_in_tiles(network, z, 2, 12, 4)
    torch.testing.assert_close(tiles, whole, rtol=1e-10, atol=1e-12)
    # With less overlap only what is near a seam differs: at 12, 24 …, two positions a latent.
    differs = (few - whole).abs().amax((0, 1)) > 1e-9
    assert differs.any()
    near = torch.zeros_like(differs)
    for axis, length in enumerate(size):
        position = (torch.arange(2 * length) + 0.5) / 2
        seams = torch.arange(12, length, 12)
        close = (position[:, None] - seams).abs().amin(1) <= 2 + network.radius
        near |= close.reshape(-1, *(1,) * (len(size) - 1 - axis))
    assert not differs[~near].any()


def test_a_latent_is_felt_as_far_as_is_said() -> None:
    """It is felt at the radius' last latent, and not beyond."""
    network, z = decoder(1), latents(31)
    changed = z.clone()
    changed[:, :, 15] += 1.0
    with torch.no_grad():
        felt = (network(z) - network(changed)).abs().amax((0, 1)).reshape(31, 2).amax(1).nonzero().flatten() - 15
    assert felt.abs().max() == network.radius


def test_large_latents_are_decoded_in_tiles(monkeypatch) -> None:
    monkeypatch.setattr(autoencoder, "TILE", 10)
    network, z = decoder(1), latents(47)
    kl = KLAutoencoder(torch.nn.Identity(), network, Normal(), 2, 2)
    vq = VQAutoencoder(torch.nn.Identity(), network, Normal(), 2, 2, num_codes=5).double()
    seen: list[int] = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[2]))
    for model in (kl, vq):
        whole = model.decode(z).detach()
        seen.clear()
        with torch.no_grad():
            torch.testing.assert_close(model.decode(z), whole, rtol=1e-10, atol=1e-12)
        assert len(seen) == 5
        assert max(seen) == 10 + 4 * network.radius
