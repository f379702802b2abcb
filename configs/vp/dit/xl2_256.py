"""ImageNet at 256 x 256, latents of 32 x 32: DiT-XL/2 (DiT-XL-2-256x256.pt)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import latents


def get_config() -> ConfigDict:
    config = latents.get_config()
    latents.dit(config)
    latents.xl_2(config)
    return config
