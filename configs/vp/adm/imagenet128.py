"""ImageNet, 128 x 128, with classes: ADM (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.guided(128, num_classes=1000)
    config.model.update(head_width=None, num_heads=4)
    config.training.num_steps = 4_360_000
    return config
