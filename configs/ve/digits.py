"""Handwritten digits, 8 x 8, with the VE SDE."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.sde.name = "ve"
    return config
