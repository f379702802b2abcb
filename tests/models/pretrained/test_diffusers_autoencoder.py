"""Large pictures go through diffusers' autoencoders in tiles whose seams are blended; others as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.models.pretrained import diffusers_autoencoder
from score_sde.models.pretrained.diffusers_autoencoder import PictureAutoencoder

diffusers = pytest.importorskip("diffusers")

from tests.models.pretrained import tiny_pipelines as tiny  # noqa: E402

# Pixels of a tile, and its latents.
TILE, LATENTS = 16, 8


def blended(first: Tensor, second: Tensor, width: int, seam: int) -> Tensor:
    """Return two neighbours in one, where the second begins at `width - seam` of the first, and `seam` is blended."""
    share = torch.arange(seam) / seam
    both = first[..., -seam:] * (1 - share) + second[..., :seam] * share
    return torch.cat([first[..., : width - seam], both, second[..., seam:]], dim=-1)


@pytest.fixture(name="made")
def autoencoder(monkeypatch: Any) -> PictureAutoencoder:
    monkeypatch.setattr(diffusers_autoencoder, "_TILE", TILE)
    return PictureAutoencoder(tiny.autoencoder(scaling_factor=0.5).eval())


def test_large_pictures_are_decoded_in_tiles_that_are_blended(made: PictureAutoencoder) -> None:
    z = torch.randn(1, 4, 6, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = [made.network.decoder(made.network.post_quant_conv(part / 0.5)) for part in (z, z[..., :8], z[..., 6:])]
    torch.testing.assert_close(made.decode(z[..., :8]), whole[1])
    found = made.decode(z)
    torch.testing.assert_close(found, blended(whole[1], whole[2], TILE, TILE // 4))
    # What norms and attention see differs, and so do the numbers.
    assert float((found - whole[0]).abs().max()) > 1e-6


def test_large_pictures_are_encoded_so_too(made: PictureAutoencoder) -> None:
    x = 2 * torch.rand(1, 3, 12, 24, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        parts = [made.network.quant_conv(made.network.encoder(part))[:, :4] for part in (x[..., :16], x[..., 12:])]
    torch.testing.assert_close(made.posterior(x).mean, 0.5 * blended(parts[0], parts[1], LATENTS, LATENTS // 4))


def test_tiles_are_of_1536_pixels() -> None:
    made = PictureAutoencoder(tiny.autoencoder())
    assert made.network.use_tiling
    assert (made.network.tile_sample_min_size, made.network.tile_latent_min_size) == (1536, 768)
