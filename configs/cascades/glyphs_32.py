"""The third stage of configs/cascades/glyphs.py: glyphs of 32 pixels, told them at 16, with noise, and the caption."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import glyphs


def get_config() -> ConfigDict:
    config = glyphs.get_config()
    config.data.update(image_size=32, low_resolution=16, low_resolution_noise=0.5)
    config.model.update(channels=12, channel_multipliers=(1, 2, 2, 2), attention_depths=(3,), data_std=0.52)
    config.training.update(num_steps=2500, batch_size=32, evaluate_every=0, sample_every=0)
    config.sampling.update(data_std=0.52, guidance=1.0, num_steps=12, low_resolution_noise=0.1)
    return config
