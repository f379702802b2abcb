"""ImageNet, 64 x 64: improved-diffusion (Nichol & Dhariwal 2021, arXiv:2102.09672)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.improved(64)
    config.training.num_steps = 1_500_000
    return config
