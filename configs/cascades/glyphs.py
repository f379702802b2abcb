"""Glyphs of 32 pixels by a cascade: drawn at 8, and enlarged twice, to 16 and to 32; each is told the caption.

    python main.py --mode train --config configs/cascades/glyphs.py
    python main.py --mode sample --workdir runs/cascades_glyphs --config.sampling.num_samples=8 \
        --config.sampling.prompt="bold oblique sans, latin small letter e with acute"

`--config.KEY=VALUE` holds for all stages, `--config.glyphs_16.KEY=VALUE` for that one.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.cascade.stages = "cascades/glyphs_8, cascades/glyphs_16, cascades/glyphs_32"
    return config
