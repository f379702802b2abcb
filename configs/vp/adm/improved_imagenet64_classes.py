"""ImageNet, 64 x 64, with classes: improved-diffusion (Nichol & Dhariwal 2021, arXiv:2102.09672)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.improved(64)
    adm.knows_classes(config, 1000)
    config.model.update(channels=192, noise_label="rung")
    config.training.update(batch_size=2048, learning_rate=3e-4, num_steps=250_000)
    return config
