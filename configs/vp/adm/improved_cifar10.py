"""CIFAR-10: improved-diffusion (Nichol & Dhariwal 2021, arXiv:2102.09672)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.improved(32, "cifar10")
    config.model.dropout = 0.3
    config.training.num_steps = 500_000
    return config
