"""ImageNet at 512 x 512, latents of 64 x 64: DiT-XL/2 (DiT-XL-2-512x512.pt)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import latents


def get_config() -> ConfigDict:
    config = latents.get_config()
    latents.dit(config)
    latents.xl_2(config)
    return config
