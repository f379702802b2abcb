"""DOC"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.update(network="unet", channels=32, channel_multipliers=(1, 2), num_blocks=1, dropout=0.0)
    config.training.update(num_steps=2000, batch_size=64, learning_rate=2e-3, warmup_steps=100, ema_decay=0.999)
    config.training.update(t_min=1e-4, precision="auto", evaluate_every=0, sample_every=500, checkpoint_every=500)
    config.sampling.update(num_samples=64, batch_size=64, data_std=1.0)
    return config
