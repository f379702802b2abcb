"""FFHQ, 1024 x 1024: NCSN++, VE."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.photographs_1024("ffhq")
    paper.ve(config)
    paper.ncsnpp_skip(config)
    paper.wide_pyramid(config)
    config.training.reduce_mean = True
    return config
