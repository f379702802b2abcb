r"""The loss of an autoencoder, and what is told of it.

    loss = (D + w R + penalty) / d

in nats a dimension, `D` and `R` as of `models.autoencoder`: with `w = 1` and no penalty the bound on `-log p(x) / d`.
Smaller weights buy reconstruction with rate; Rombach et al. (2022, arXiv:2112.10752) take about 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.common.noise import BatchNoise, SampleNoise
from score_sde.data import Batch
from score_sde.models.autoencoder import Autoencoder, VQAutoencoder, perplexity
from score_sde.training.objectives import Losses

_BATCH_SIZE = 128


@dataclass(frozen=True)
class Autoencoding:
    """The loss is estimated from one draw of the latents of each example.

    Attributes:
        rate_weight: the weight `w` of the rate.
    """

    rate_weight: float = 1.0

    def __call__(self, model: Autoencoder, batch: Batch, noise: BatchNoise | None = None) -> Losses:
        """Return the losses of a batch; arguments are those of `training.objectives.Objective`."""
        terms = model.terms(batch.x_0, noise or BatchNoise(len(batch)))
        total = terms.distortion + self.rate_weight * terms.rate + terms.penalty
        return Losses(total / batch.x_0[0].numel())


def measure_autoencoder(model: Autoencoder, x: Tensor, seeds: list[int]) -> dict[str, Tensor]:
    """Return, by name, what is measured of each of these examples, `(N,)`, float64.

    They are rate and distortion, in bits a dimension, and the mean squared error of reconstructions, in model units.

    Args:
        model: the autoencoder.
        x: examples in model units `(N, C, *size)`.
        seeds: example `i` is encoded with the noise of `seeds[i]`.
    """
    device, per_dimension = next(model.parameters()).device, x[0].numel() * math.log(2)
    parts = []
    with torch.no_grad():
        for first in range(0, len(x), _BATCH_SIZE):
            part = slice(first, first + _BATCH_SIZE)
            parts.append(model.terms(x[part].to(device), SampleNoise(seeds[part], "dequantisation")))
    rate, distortion, _, error = (torch.cat(field).cpu().double() for field in zip(*parts, strict=True))
    return {"rate": rate / per_dimension, "distortion": distortion / per_dimension, "error": error}


def codes_in_use(model: VQAutoencoder, x: Tensor) -> float:
    """Return the perplexity of the codes of examples in model units `(N, C, *size)`."""
    device = next(model.parameters()).device
    with torch.no_grad():
        numbers = [model.nearest(model.posterior(part.to(device)).mean) for part in x.split(_BATCH_SIZE)]
    return perplexity(torch.cat(numbers), len(model.codes))


def autoencoder_measure(x: Tensor, seed: int) -> Callable[[Autoencoder], dict[str, float]]:
    """Return a function that measures an autoencoder on examples in model units `(N, C, *size)`.

    Args:
        x: the examples.
        seed: example `i` has noise `seed + i`.
    """

    def measure(model: Autoencoder) -> dict[str, float]:
        found = measure_autoencoder(model, x, list(range(seed, seed + len(x))))
        rate, distortion, error = (values.mean().item() for values in found.values())
        values = {
            "bits_per_dim_bound": rate + distortion,
            "rate_bits_per_dim": rate,
            "reconstruction_error": math.sqrt(error),
        }
        return values | ({"codes_in_use": codes_in_use(model, x)} if isinstance(model, VQAutoencoder) else {})

    return measure
