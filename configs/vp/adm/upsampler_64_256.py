"""ImageNet, 64 x 64 to 256 x 256, with classes: ADM's upsampler (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.upsampler(256, 64)
    config.model.update(head_width=None, num_heads=4)
    return config
