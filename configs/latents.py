"""What the configurations of published networks of latents share.

They are DiT (Peebles & Xie 2022, arXiv:2212.09748) and SiT (Ma et al. 2024, arXiv:2401.08740), on the latents of Stable
Diffusion's autoencoder times 0.18215, of ImageNet's classes.

Their networks, their processes, and how they were trained; how they are sampled is our own.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    """Return the values that all configurations of published networks of latents have in common."""
    config = default.get_config()
    config.data.dataset = "latents"
    config.model.update(network="dit", class_conditional=True, scale_input=False)
    config.training.update(weighting="sigma2", times="uniform", stratified=False, num_steps=7_000_000, batch_size=256)
    config.training.update(optimizer="adamw", learning_rate=1e-4, schedule="constant", warmup_steps=0)
    config.training.update(max_grad_norm=0.0, ema_decay=0.9999, label_dropout=0.1)
    config.training.update(sample_every=50_000, checkpoint_every=50_000)
    config.sampling.update(num_samples=8, batch_size=8, data_std=1.0)
    config.likelihood.batch_size = 8
    return config


def xl_2(config: ConfigDict) -> None:
    """Put in the largest published network, with patches of 2 x 2."""
    config.model.update(width=1152, num_blocks=28, num_heads=16, patch_size=2)


def dit(config: ConfigDict) -> None:
    """Put in DDPM's ladder. DiT is told the rung and returns the noise."""
    config.sde.update(name="ddpm", num_rungs=1000, beta_min=0.1, beta_max=20.0)
    config.model.update(prediction="noise", noise_label="rung")
    config.training.objective = "discrete"


def sit(config: ConfigDict) -> None:
    """Put in straight lines. SiT is told `1 - t`, and its output with the sign changed is `eps - x_0`."""
    config.sde.name = "rectified_flow"
    config.model.update(prediction="flow", noise_label="alpha")
    config.training.weighting = "flow"
