"""Digits with a transformer on patches, DiT, in place of the U-Net."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.update(network="dit", patch_size=2, width=96, num_blocks=4, num_heads=4)
    config.training.update(learning_rate=2e-3)
    return config
