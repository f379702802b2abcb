"""Digits with a network that is told which digit: `--config.sampling.labels=3` draws threes."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.update(class_conditional=True)
    return config
