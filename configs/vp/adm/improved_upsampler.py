"""ImageNet, 64 x 64 to 256 x 256, with classes: improved-diffusion (Nichol & Dhariwal 2021, arXiv:2102.09672)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.upsampler(256, 64)
    config.sde.num_rungs = 4000
    config.model.update(head_width=None, num_heads=4, attention_resolutions=(16, 8), resample_in_blocks=False)
    config.training.update(learning_rate=3e-4, num_steps=500_000)
    return config
