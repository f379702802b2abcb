"""Vectors of your own, `--config.data.path=vectors.npy`, an array `(N, d)`: from a dozen on.

They are taken as they are: bring them to mean 0 and standard deviation 1 or so first.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.update(network="mlp", num_blocks=3)
    config.training.update(num_steps=5000, batch_size=256, learning_rate=1e-3, warmup_steps=100, ema_decay=0.999)
    config.training.update(evaluate_every=0, sample_every=1000, checkpoint_every=1000)
    config.sampling.update(num_samples=1000, batch_size=1000, data_std=1.0)
    config.likelihood.batch_size = 1000
    return config
