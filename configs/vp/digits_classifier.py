"""A classifier of noisy digits, for classifier guidance: `--config.sampling.classifier=runs/vp_digits_classifier`."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data.update(distortion=0.0, augment="distort")
    config.model.update(network="classifier", channels=32, channel_multipliers=(1, 2, 2), num_blocks=2, dropout=0.2)
    config.training.update(times="log_snr", t_min=1e-3, num_steps=1500, learning_rate=2e-3, measure_every=1500)
    config.training.update(num_measured=360)
    return config
