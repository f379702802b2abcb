"""Letters with given edges: a control beside the frozen model of `configs/vp/glyphs.py`, which is trained before.

With `--config.data.edges=None --config.data.low_resolution=4 --config.model.control=low_resolution` it is told what
letters are like on 4 x 4 pixels instead.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import glyphs


def get_config() -> ConfigDict:
    config = glyphs.get_config()
    config.data.edges = 0.15
    config.model.control = "edges"
    config.training.update(start_from="runs/vp_glyphs", num_steps=1200, warmup_steps=120, batch_size=32)
    config.training.update(learning_rate=2e-3)
    # A caption says almost all of a letter: where it is told, edges tell nothing that could be learnt.
    config.training.update(label_dropout=0.8, evaluate_every=400, sample_every=400, checkpoint_every=400)
    return config
