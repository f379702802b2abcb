"""Fields of your own, `--config.data.path=fields.npy`, an array `(N, C, H, W)` of real numbers.

Small enough for a CPU; for large ones more `model.channel_multipliers` and `model.channels`. Axes that close on
themselves, such as longitude, are named by `model.periodic`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.update(network="unet", channels=16, channel_multipliers=(1, 2, 2), num_blocks=1, dropout=0.0)
    config.training.update(weighting="edm", times="edm", edm_mean=-1.0, edm_std=1.6)
    config.training.update(num_steps=800, batch_size=64, learning_rate=4e-3, warmup_steps=80, adam_beta2=0.99)
    config.training.update(ema_decay=0.999, evaluate_every=0, sample_every=250, checkpoint_every=500)
    config.sampling.update(num_samples=64, batch_size=64, data_std=1.0)
    config.likelihood.batch_size = 64
    return config
