"""ImageNet, 512 x 512, with classes: ADM (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.guided(512, num_classes=1000)
    config.training.num_steps = 1_940_000
    return config
