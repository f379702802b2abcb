"""An autoencoder of glyphs, 32 x 32 to 4 channels of 8 x 8: `--config.data.autoencoder=runs/autoencoders_glyphs`.

`--config.model.network=vq_autoencoder` rounds latents to codes.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    # Levels are seen as they are: the decoder's distribution is one of levels.
    config.data.update(dataset="glyphs", image_size=32, uniform_dequantisation=False)
    config.model.update(network="kl_autoencoder", channels=16, channel_multipliers=(1, 2, 4), num_blocks=1)
    config.model.update(dropout=0.0, latent_channels=4, num_codes=256)
    config.training.update(num_steps=3000, batch_size=32, learning_rate=2e-3, warmup_steps=100, adam_beta2=0.99)
    config.training.update(ema_decay=0.999, evaluate_every=0, measure_every=500, num_measured=256)
    config.training.update(sample_every=1000, checkpoint_every=500)
    return config
