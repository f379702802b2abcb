"""Colour patches of two photographs, 32 x 32, with the VP SDE: a model to try inverse problems on."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(dataset="photos", augment="flip")
    config.model.update(channels=32, channel_multipliers=(1, 2, 2), num_blocks=1, attention_resolutions=(8,))
    config.model.update(prediction="edm", data_std=0.63, dropout=0.0)
    config.training.update(weighting="edm", times="edm", edm_mean=-1.0, edm_std=1.4, t_min=1e-4)
    config.training.update(num_steps=3000, batch_size=32, learning_rate=2e-3, warmup_steps=200, ema_decay=0.999)
    config.training.update(sample_every=1000, checkpoint_every=1000)
    config.sampling.update(data_std=0.63)
    return config
