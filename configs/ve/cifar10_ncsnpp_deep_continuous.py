"""CIFAR-10: deep NCSN++, VE."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.cifar10()
    paper.ve(config)
    paper.ncsnpp(config)
    paper.deep(config)
    return config
