"""CelebA-HQ, 256 x 256: DDPM (Ho et al. 2020, arXiv:2006.11239)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import paper


def get_config() -> ConfigDict:
    config = paper.photographs_256("celebahq")
    paper.ddpm_ladder(config)
    paper.ddpm(config)
    config.model.channel_multipliers = (1, 1, 2, 2, 4, 4)
    config.training.learning_rate = 2e-5
    return config
