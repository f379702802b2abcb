"""Handwritten digits, 8 x 8 with 17 grey levels, with the VP SDE: the default job."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(distortion=0.35)
    config.model.update(channels=16, channel_multipliers=(1, 2), num_blocks=2, attention_resolutions=(4,), dropout=0.0)
    config.model.update(prediction="levels", data_std=0.7)
    # Every time weighs the same in the loss; those at which a level can just be told are drawn more often.
    config.training.update(weighting="likelihood", times="edm", edm_mean=-2.0, edm_std=2.5)
    config.training.update(num_steps=2500, batch_size=64, learning_rate=4e-3, warmup_steps=100, adam_beta2=0.99)
    config.training.update(ema_decay=0.999, evaluate_every=500, sample_every=900, checkpoint_every=500)
    config.sampling.update(data_std=0.7)
    config.likelihood.update(t_min=1e-5)
    config.compare.update(budgets=(5, 10, 20), num_samples=250, num_trajectories=64, repetitions=2)
    return config
