"""CIFAR-10: DDPM++, sub-VP."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.cifar10()
    paper.subvp(config)
    paper.ddpmpp(config)
    return config
