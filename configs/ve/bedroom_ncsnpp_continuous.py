"""LSUN bedrooms, 256 x 256: NCSN++, VE."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.photographs_256("lsun_bedroom")
    paper.ve(config)
    paper.ncsnpp_skip(config)
    config.sde.sigma_max = 378.0
    return config
