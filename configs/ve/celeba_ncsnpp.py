"""CelebA, 64 x 64: NCSN++ on NCSN's ladder."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.celeba()
    paper.ncsn_ladder(config)
    paper.ncsnpp(config)
    config.sampling.snr = 0.17
    return config
