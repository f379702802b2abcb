"""CelebA-HQ, 256 x 256: NCSN++, VE."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.photographs_256("celebahq")
    paper.ve(config)
    paper.ncsnpp_skip(config)
    config.sde.sigma_max = 348.0
    return config
