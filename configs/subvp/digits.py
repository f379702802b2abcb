"""Handwritten digits, 8 x 8, with the sub-VP SDE."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.sde.name = "subvp"
    # Its sigma is 1e-6 at t = 1e-5, below what float32 resolves; at 1e-3 it is 1e-4.
    config.training.t_min = 1e-3
    config.likelihood.t_min = 1e-3
    return config
