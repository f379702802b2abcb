"""What the configurations of the Score-SDE paper share (Song et al. 2021, arXiv:2011.13456, section 4 and appendices).

A configuration file takes one of `cifar10`, `celeba`, `photographs_256`, `photographs_1024`, and puts in a process
(`vp`, `subvp`, `ve`, `ddpm_ladder`, `ncsn_ladder`) and a network (`ddpm`, `ddpmpp`, `ncsnpp`, `ncsnpp_skip`). All
values are the published ones, but for what is not part of a method: how often things are logged and looked at, and the
precision of products.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default


def get_config() -> ConfigDict:
    """Return the values that all configurations of the paper have in common."""
    config = default.get_config()
    config.seed = 42
    config.data.update(augment="flip", uniform_dequantisation=False)
    config.model.update(scale_input=False, dropout=0.1, attention_resolutions=(16,))
    training = config.training
    training.update(weighting="sigma2", times="uniform", stratified=False, t_min=1e-5)
    training.update(num_steps=1_300_001, batch_size=128, learning_rate=2e-4, schedule="constant", warmup_steps=5000)
    training.update(max_grad_norm=1.0, ema_decay=0.9999)
    training.precision = "auto"
    training.update(log_every=50, sample_every=50_000, checkpoint_every=10_000)
    config.sampling.update(solver="pc", num_steps=1000, grid="uniform_t", corrector="none", corrector_steps=1, snr=0.16)
    config.likelihood.update(rtol=1e-5, atol=1e-5)
    return config


def cifar10() -> ConfigDict:
    """Return the values for CIFAR-10, 32 x 32."""
    config = get_config()
    config.data.update(dataset="cifar10", image_size=32, num_channels=3)
    return config


def celeba() -> ConfigDict:
    """Return the values for CelebA, centre crops of 140 x 140, resized to 64 x 64."""
    config = get_config()
    config.data.update(dataset="celeba", image_size=64, num_channels=3)
    config.sde.sigma_max = 90.0
    return config


def photographs_256(dataset: str) -> ConfigDict:
    """Return the values for LSUN's bedrooms and churches, FFHQ and CelebA-HQ at 256 x 256."""
    config = get_config()
    config.data.update(dataset=dataset, image_size=256, num_channels=3)
    config.training.update(num_steps=2_400_001, batch_size=64, checkpoint_every=5000)
    config.model.dropout = 0.0
    config.sampling.snr = 0.075
    return config


def photographs_1024(dataset: str) -> ConfigDict:
    """Return the values for FFHQ and CelebA-HQ at 1024 x 1024."""
    config = photographs_256(dataset)
    config.data.image_size = 1024
    config.training.batch_size = 8
    config.sampling.snr = 0.15
    return config


def vp(config: ConfigDict) -> None:
    """Put in the VP SDE. Networks are told 999 t and return the noise."""
    config.sde.name = "vp"
    config.model.update(prediction="noise", noise_label="time")
    config.sampling.update(predictor="euler_maruyama", t_min=1e-3)
    config.likelihood.t_min = 1e-5


def subvp(config: ConfigDict) -> None:
    """Put in the sub-VP SDE; all else is as in `vp`."""
    vp(config)
    config.sde.name = "subvp"


def ddpm_ladder(config: ConfigDict) -> None:
    """Put in DDPM's ladder of 1000 rungs. Networks are told the rung and return the noise."""
    config.sde.update(name="ddpm", num_rungs=1000)
    config.model.update(prediction="noise", noise_label="rung")
    config.training.objective = "discrete"
    config.sampling.predictor = "ancestral"


def ve(config: ConfigDict) -> None:
    """Put in the VE SDE on images in [0, 1], with a Langevin corrector. Networks are told sigma, return the score."""
    config.sde.name = "ve"
    config.data.low = 0.0
    config.sampling.data_std = 0.25
    config.model.update(
        prediction="score", noise_label="sigma", scale_by_sigma=True, centered=False, embedding="fourier"
    )
    config.training.update(reduce_mean=False, ema_decay=0.999)
    config.sampling.update(predictor="reverse_diffusion", corrector="langevin", t_min=1e-5)
    config.likelihood.t_min = 1e-5


def ncsn_ladder(config: ConfigDict) -> None:
    """Put in NCSN's ladder of 1000 rungs. Networks are told the rung from the noisiest; all else is as in `ve`."""
    ve(config)
    config.sde.update(name="ncsn", num_rungs=1000)
    config.model.update(noise_label="rung_from_noisiest", embedding="positional")
    config.training.objective = "discrete"
    config.sampling.t_min = None
    config.likelihood.t_min = None


def ddpm(config: ConfigDict) -> None:
    """Put in DDPM's network."""
    config.model.update(network="ddpm", num_blocks=2)


def ddpmpp(config: ConfigDict) -> None:
    """Put in DDPM++, which is NCSN++ without filters and pyramids."""
    config.model.update(network="ncsnpp", num_blocks=4)


def ncsnpp(config: ConfigDict) -> None:
    """Put in NCSN++ with a residual input pyramid."""
    config.model.update(network="ncsnpp", num_blocks=4, fir=True, progressive_input="residual")


def ncsnpp_skip(config: ConfigDict) -> None:
    """Put in NCSN++ for 256 x 256 and more, with skip pyramids on both sides and 2000 rungs."""
    config.model.update(network="ncsnpp", fir=True, progressive="output_skip", progressive_input="input_skip")
    config.model.update(num_blocks=2, channel_multipliers=(1, 1, 2, 2, 2, 2, 2))
    config.sde.num_rungs = config.sampling.num_steps = 2000


def deep(config: ConfigDict) -> None:
    """Put in twice the blocks and 950,000 steps, for the variants called deep."""
    config.model.num_blocks = 8
    config.training.num_steps = 950_001


def wide_pyramid(config: ConfigDict) -> None:
    """Put in the network and training for 1024 x 1024, with 16 channels at full size and 512 at the smallest."""
    config.model.update(channels=16, channel_multipliers=(1, 2, 4, 8, 16, 32, 32, 32), num_blocks=1)
    config.sde.sigma_max = 1348.0
    config.training.ema_decay = 0.9999
