"""Glyphs, letters of twelve styles, with a network that is told their captions: pictures from words.

`--config.sampling.prompt="bold oblique sans, latin small letter e with acute"` draws that; the larger
`--config.data.dataset=glyphs_all` has all letters, `--config.data.num_channels=3` colours.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(dataset="glyphs", image_size=16)
    config.model.update(network="unet", channels=32, channel_multipliers=(1, 2, 2), num_blocks=1, dropout=0.0)
    config.model.update(attention_depths=(1, 2), prediction="edm", data_std=0.6)
    config.training.update(weighting="edm", times="edm", edm_mean=-0.8, edm_std=1.6)
    config.training.update(num_steps=6000, batch_size=64, learning_rate=2e-3, warmup_steps=200, adam_beta2=0.99)
    config.training.update(ema_decay=0.999, evaluate_every=1000, sample_every=2000, checkpoint_every=1000)
    config.sampling.update(data_std=0.6, guidance=2.0, num_steps=20)
    return config
