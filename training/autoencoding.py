r"""The loss of an autoencoder, and what is told of it.

    loss = (D + w R + penalty) / d + w_P P(x, x') + w_A A(x')

in nats a dimension, `D` and `R` as of `models.autoencoder`: with `w = 1` and no penalty the bound on `-log p(x) / d`.
Smaller weights buy reconstruction with rate; Rombach et al. (2022, arXiv:2112.10752) take about 1e-6.

A distribution that knows each number's error alone likes what is blurred. Two more terms, on request, look at what is
decoded, `x'`: the perceptual distance `P` (`training.perceptual`) and the adversary's doubt `A` (`training.adversary`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise, SampleNoise
from score_sde.data import Batch
from score_sde.models.autoencoder import Autoencoder, VQAutoencoder, perplexity
from score_sde.training.adversary import Adversary
from score_sde.training.objectives import Losses
from score_sde.training.perceptual import PerceptualDistance

_BATCH_SIZE = 128


@dataclass(frozen=True)
class Autoencoding:
    """The loss is estimated from one draw of the latents of each example.

    Attributes:
        rate_weight: the weight `w` of the rate.
        perceptual: the perceptual distance, if it is asked for …
        perceptual_weight: … and its weight.
        adversary: the adversary, if it is asked for …
        adversarial_weight: … and the weight of its doubt.
    """

    rate_weight: float = 1.0
    perceptual: PerceptualDistance | None = None
    perceptual_weight: float = 0.0
    adversary: Adversary | None = None
    adversarial_weight: float = 0.0

    def __call__(self, model: Autoencoder, batch: Batch, noise: BatchNoise | None = None) -> Losses:
        """Return the losses of a batch; arguments are those of `training.objectives.Objective`.

        Where no gradients are taken, as of held-out examples, there is nothing of the adversary: its doubt tells as
        much of itself as of the autoencoder.
        """
        x, count = batch.x_0, batch.x_0[0].numel()
        terms = model.terms(x, noise or BatchNoise(len(batch)))
        total = (terms.distortion + self.rate_weight * terms.rate + terms.penalty) / count
        if not self.names:
            return Losses(total)
        parts = [terms.distortion / count, terms.rate / count]
        if self.perceptual is not None:
            parts.append(self.perceptual(x, terms.decoded))
            total = total + self.perceptual_weight * parts[-1]
        if self.adversary is not None and self.adversary.has_begun and torch.is_grad_enabled():
            parts += [self.adversary.doubt(terms.decoded), self.adversary.tell_apart(x, terms.decoded)]
            total = total + self.adversarial_weight * parts[-2]
        absent = [torch.full_like(total, torch.nan)] * (len(self.names) - len(parts))
        return Losses(total, terms=torch.stack([*parts, *absent], 1).detach())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is told of a loss are those of its terms; none where it has the usual ones alone."""
        seen = ("perceptual",) if self.perceptual is not None else ()
        told_apart = ("doubt", "discriminator") if self.adversary is not None else ()
        return ("distortion", "rate", *seen, *told_apart) if seen or told_apart else ()

    def learn(self, losses: Losses) -> None:
        """Let the adversary, if there is one, do its step; of several processes, all must ask."""
        if self.adversary is not None:
            self.adversary.learn()

    def state(self) -> dict[str, Any]:
        """Return what the adversary has learnt, and what the perceptual distance is measured by."""
        return {
            **({} if self.perceptual is None else {"perceptual": self.perceptual.digest}),
            **({} if self.adversary is None else self.adversary.state()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            UserError: there was no adversary, or the perceptual distance was measured by another network.
        """
        if self.perceptual is not None and state.get("perceptual", "") not in ("", self.perceptual.digest):
            raise UserError("the network of the perceptual loss is another than the one that this run was begun with")
        if self.adversary is not None:
            self.adversary.restore(state)


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
            terms = model.terms(x[part].to(device), SampleNoise(seeds[part], "dequantisation"))
            parts.append(torch.stack([terms.rate, terms.distortion, terms.error]))
    rate, distortion, error = torch.cat(parts, 1).cpu().double()
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
