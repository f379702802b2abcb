"""Pictures from words in the latents of an autoencoder: first `--config configs/autoencoders/glyphs.py`."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import glyphs


def get_config() -> ConfigDict:
    config = glyphs.get_config()
    config.data.update(image_size=32, autoencoder="runs/autoencoders_glyphs")
    config.model.update(channels=48, channel_multipliers=(1, 2), attention_depths=(0, 1), data_std=1.0)
    config.training.update(edm_mean=-0.4, edm_std=1.4)
    config.sampling.data_std = 1.0
    return config
