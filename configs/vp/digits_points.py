"""Digits as they are: levels are points, not dequantised in training; bits/dim by truncated normal dequantisation."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data.update(uniform_dequantisation=False)
    # Below this time the noise hardly reaches from one level to the next, and nothing is left to learn.
    config.training.update(t_min=3e-3, edm_mean=-1.0, edm_std=2.0)
    config.sampling.update(t_min=3e-3)
    config.likelihood.update(dequantisation="truncated_normal", t_min=None)
    return config
