"""Handwritten digits, 8 x 8, with the VE SDE."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    # The smallest noise is a hundredth of a level, for likelihoods.
    config.sde.update(name="ve", sigma_min=1e-3)
    return config
