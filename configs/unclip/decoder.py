"""A decoder, the third part of unCLIP: glyphs given their embeddings, by `configs/unclip/embedding.py`.

With `--config.sampling.prior=runs/unclip_prior` and `--config.sampling.prompt=…` it draws from words.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import glyphs


def get_config() -> ConfigDict:
    config = glyphs.get_config()
    config.data.embed_condition = "runs/unclip_embedding"
    return config
