"""ImageNet, 128 x 128 to 512 x 512, with classes: ADM's upsampler (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.upsampler(512, 128)
    config.model.update(channel_multipliers=(1, 1, 2, 2, 4, 4), attention_resolutions=(32, 16))
    return config
