"""Eight Gaussians on a ring in the plane, with the VP SDE.

`--config.data.dataset=two_moons`, `checkerboard` or `swiss_roll` for the others.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(dataset="eight_gaussians", validation=2000)
    config.model.update(network="mlp", num_blocks=3)
    config.training.update(num_steps=5000, batch_size=256, learning_rate=1e-3, warmup_steps=100, ema_decay=0.999)
    config.sampling.update(num_samples=2000, batch_size=2000, data_std=1.0)
    config.likelihood.update(batch_size=2000, divergence="exact")
    return config
