"""A joint embedding of glyphs and their captions, the first of three parts: then `configs/unclip/prior.py`, and
`configs/unclip/decoder.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(dataset="glyphs", image_size=16)
    config.model.update(network="joint_embedding", embedding_size=64)
    config.model.update(channels=16, channel_multipliers=(1, 2, 4), num_blocks=1, dropout=0.0)
    config.training.update(num_steps=1000, batch_size=256, learning_rate=2e-3, warmup_steps=100, adam_beta2=0.99)
    config.training.update(ema_decay=0.99, evaluate_every=0, sample_every=0, measure_every=250, num_measured=1000)
    config.training.update(checkpoint_every=500)
    return config
