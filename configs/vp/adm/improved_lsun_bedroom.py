"""LSUN bedrooms, 256 x 256: improved-diffusion (Nichol & Dhariwal 2021, arXiv:2102.09672)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.improved(256, "lsun_bedroom")
    config.sde.update(name="ddpm", num_rungs=1000)
    config.model.update(num_blocks=2, num_heads=1, scale_shift=False, attention_resolutions=(16,), noise_label="rung")
    config.training.num_steps = 1_200_000
    return config
