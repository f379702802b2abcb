"""CIFAR-10: DDPM (Ho et al. 2020, arXiv:2006.11239)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.cifar10()
    paper.ddpm_ladder(config)
    paper.ddpm(config)
    return config
