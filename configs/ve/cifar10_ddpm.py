"""CIFAR-10: DDPM's network on NCSN's ladder."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.cifar10()
    paper.ncsn_ladder(config)
    paper.ddpm(config)
    return config
