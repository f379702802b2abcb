"""Pictures of your own, `--config.data.path=FOLDER`: small enough for a CPU; on a GPU, more `model.channels`."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(image_size=32, augment="flip")
    config.model.update(channels=32, channel_multipliers=(1, 2, 2), num_blocks=2, attention_resolutions=(8,))
    config.model.update(data_std=0.5)
    config.training.update(weighting="edm", times="edm", precision="auto")
    config.training.update(num_steps=20_000, batch_size=64, learning_rate=1e-3, warmup_steps=100, ema_decay=0.999)
    config.training.update(evaluate_every=0, sample_every=250, checkpoint_every=500)
    config.sampling.update(data_std=0.5)
    return config
