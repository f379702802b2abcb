"""A prior, the second part of unCLIP: embeddings of glyphs given their captions, by `configs/unclip/embedding.py`."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(dataset="glyphs", image_size=16, embedding="runs/unclip_embedding")
    config.model.update(network="mlp", width=256, num_blocks=4, prediction="edm")
    config.training.update(weighting="edm", times="edm", edm_mean=-1.0, edm_std=1.6)
    config.training.update(num_steps=3000, batch_size=256, learning_rate=2e-3, warmup_steps=200, adam_beta2=0.99)
    config.training.update(ema_decay=0.999, evaluate_every=0, sample_every=0, checkpoint_every=1000)
    config.sampling.update(num_samples=1000, batch_size=1000, data_std=1.0, guidance=2.0, num_steps=20)
    return config
