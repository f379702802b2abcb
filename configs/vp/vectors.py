"""Vectors of your own, `--config.data.path=vectors.npy`, an array `(N, d)`, or a table: from a dozen on.

The weights decay, so that few examples are not learnt by heart. A few hundred of many dimensions are, later: then
`--config.data.validation=0.2 --config.training.evaluate_every=50 --config.training.patience=3` stops in time.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.update(network="mlp", num_blocks=3)
    config.training.update(weighting="edm", times="edm", edm_mean=-1.0, edm_std=1.6)
    config.training.update(num_steps=2500, batch_size=256, learning_rate=1e-3, warmup_steps=100, ema_decay=0.999)
    config.training.update(optimizer="adamw", weight_decay=1.0)
    config.training.update(evaluate_every=0, sample_every=500, checkpoint_every=500)
    config.sampling.update(num_samples=1000, batch_size=1000, data_std=1.0)
    config.likelihood.batch_size = 1000
    return config
