"""Digits with a learned schedule, as variational diffusion models have it, between the ends of the default's."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.sde.update(name="learned", log_snr_max=13.8, log_snr_min=-10.0)
    config.training.update(objective="variational", t_min=0.0)
    config.likelihood.update(t_min=0.0)
    return config
