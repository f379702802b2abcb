"""The second stage of configs/cascades/glyphs.py: glyphs of 16 pixels, told them at 8, with noise, and the caption."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import glyphs


def get_config() -> ConfigDict:
    config = glyphs.get_config()
    config.data.update(image_size=16, shrunk_from=32, low_resolution=8, low_resolution_noise=0.5)
    config.model.update(channels=16, attention_depths=(2,), data_std=0.47)
    config.training.update(num_steps=2500, batch_size=32, evaluate_every=0, sample_every=0)
    config.sampling.update(data_std=0.47, guidance=1.0, num_steps=12, low_resolution_noise=0.1)
    return config
