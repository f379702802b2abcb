"""Parameters given what a simulator made of them: `score_sde.fit(theta, condition=x, config="vp/posterior")`.

A posterior is narrower than the prior that the parameters are standardised by, and often a thin curve. So smaller noise
is trained on than for vectors by themselves, and the weights decay less, which would keep what is thin from being
learnt.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import vectors


def get_config() -> ConfigDict:
    config = vectors.get_config()
    config.model.num_blocks = 4
    config.training.update(edm_mean=-1.5, edm_std=1.8, weight_decay=0.3, num_steps=3000)
    return config
