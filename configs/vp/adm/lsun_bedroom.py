"""LSUN bedrooms, 256 x 256; cats and horses are alike: ADM (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import adm


def get_config() -> ConfigDict:
    config = adm.guided(256, "lsun_bedroom")
    config.model.dropout = 0.1
    return config
