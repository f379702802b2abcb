"""ImageNet, 64 x 64, with classes: ADM (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.guided(64, num_classes=1000)
    config.sde.name = "cosine"
    config.model.update(channels=192, num_blocks=3, heads_first=False, dropout=0.1)
    config.training.update(batch_size=2048, learning_rate=3e-4, num_steps=540_000)
    return config
