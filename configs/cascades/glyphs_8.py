"""The first stage of configs/cascades/glyphs.py: glyphs of 32 pixels as they are at 8, from captions."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import glyphs


def get_config() -> ConfigDict:
    config = glyphs.get_config()
    config.data.update(image_size=8, shrunk_from=32)
    config.model.update(channels=24, channel_multipliers=(1, 2), attention_depths=(1,), data_std=0.37)
    config.training.update(num_steps=4000, evaluate_every=0, sample_every=0)
    config.sampling.update(data_std=0.37)
    return config
