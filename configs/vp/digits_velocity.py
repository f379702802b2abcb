"""Digits with a network that predicts the velocity, trained for likelihood; bits/dim by variational dequantisation."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.update(prediction="velocity")
    config.likelihood.update(dequantisation="variational")
    return config
