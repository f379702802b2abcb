"""What the configurations of the published models of ADM share, of the code guided-diffusion and improved-diffusion.

All are models of the noise on DDPM's ladder, linear or cosine, whose networks return variances beside it; classes, of
those that know them, are never hidden (Nichol & Dhariwal 2021, arXiv:2102.09672; Dhariwal & Nichol 2021,
arXiv:2105.05233, appendix I).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs import default

# Widths at each resolution, by the height of the images, in units of `model.channels`.
_WIDTHS = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def get_config() -> ConfigDict:
    """Return the values that all of them have in common."""
    config = default.get_config()
    config.data.update(augment="flip", uniform_dequantisation=False, num_channels=3)
    config.sde.update(name="ddpm", num_rungs=1000)
    config.model.update(network="adm", prediction="noise", noise_label="rung", scale_input=False, dropout=0.0)
    config.model.update(heads_first=True, variance="learned")
    training = config.training
    training.update(objective="hybrid", times="uniform", stratified=False, label_dropout=0.0)
    training.update(batch_size=256, learning_rate=1e-4, schedule="constant", warmup_steps=0, max_grad_norm=0.0)
    training.precision = "auto"
    config.sampling.update(solver="pc", predictor="ancestral", corrector="none", num_steps=250, grid="uniform_t")
    return config


def guided(image_size: int, dataset: str = "images", num_classes: int | None = None) -> ConfigDict:
    """Return the values of guided-diffusion, for images of this height; without a number of classes it knows none."""
    config = get_config()
    config.data.update(dataset=dataset, image_size=image_size)
    config.model.update(channels=256, channel_multipliers=_WIDTHS[image_size], num_blocks=2, head_width=64)
    config.model.update(attention_resolutions=(32, 16, 8))
    if num_classes is not None:
        knows_classes(config, num_classes)
    return config


def improved(image_size: int, dataset: str = "images") -> ConfigDict:
    """Return the values of improved-diffusion, for images of this height: cosine betas of 4000 rungs."""
    config = get_config()
    config.data.update(dataset=dataset, image_size=image_size)
    config.sde.update(name="cosine", num_rungs=4000)
    config.model.update(channels=128, channel_multipliers=_WIDTHS[image_size], num_blocks=3, num_heads=4)
    config.model.update(attention_resolutions=(16, 8), resample_in_blocks=False, noise_label="rung_of_1000")
    config.training.batch_size = 128
    return config


def knows_classes(config: ConfigDict, num_classes: int) -> None:
    """Put in the classes that a model knows; densities are then those given an image's own."""
    config.data.num_classes = num_classes
    config.model.class_conditional = True
    config.likelihood.given = "own"


def upsampler(image_size: int, small_size: int) -> ConfigDict:
    """Return the values of guided-diffusion's upsamplers, to images of this height from smaller ones."""
    config = guided(image_size, num_classes=1000)
    config.data.update(low_resolution=small_size, augment="")
    config.model.channels = 192
    return config
