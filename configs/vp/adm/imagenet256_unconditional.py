"""ImageNet, 256 x 256, a classifier guides to classes: ADM (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.guided(256)
    config.data.num_classes = 1000
    config.training.num_steps = 1_980_000
    return config
