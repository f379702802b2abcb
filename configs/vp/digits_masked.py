"""Digits with a network that is told the known pixels of an image, and which they are: it fills in the others.

`--mode edit --config.edit.input=test:0-3` inpaints by it. It knows whole digits, too.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data.update(masks="half,box,stroke,pixels,all")
    return config
