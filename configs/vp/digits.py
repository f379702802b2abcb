"""Handwritten digits, 8 x 8, with the VP SDE: the default job."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.validation = 64
    config.model.update(channels=16, channel_multipliers=(1, 2), num_blocks=2, attention_resolutions=(4,), dropout=0.0)
    config.model.update(prediction="velocity", data_std=0.7)
    config.training.update(num_steps=2000, batch_size=64, learning_rate=2e-3, warmup_steps=100, ema_decay=0.999)
    config.training.update(evaluate_every=500, sample_every=1000, checkpoint_every=500)
    return config
