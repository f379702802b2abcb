"""Digits by improved DDPM: a network that says the variance of each step beside the noise, on the cosine ladder."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.sde.update(name="cosine", num_rungs=1000)
    # Levels are points, as in the paper: the last term of the bound gives their probabilities.
    config.data.update(uniform_dequantisation=False, distortion=0.0)
    config.model.update(prediction="noise", variance="learned", noise_label="rung")
    config.training.update(objective="hybrid", times="uniform", t_min=1e-3)
    config.sampling.update(solver="pc", predictor="ancestral", corrector="none", num_steps=50)
    config.likelihood.update(dequantisation="truncated_normal", bounds=("discrete", "continuous"))
    config.likelihood.update(t_min=1e-3, num_rungs=50, bound_calls=50)
    return config
