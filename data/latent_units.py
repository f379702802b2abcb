r"""Latents as units: models see what an autoencoder makes of examples, and examples are decoded from it.

With an encoder `q(z | x) = N(mu(x), diag sigma(x)^2)` of examples `x` in the units of the autoencoder (`pixels`), and
mean `m` and deviation `s` of all latents of the training part, one of each channel,

    y = (z - m) / s,        z = mu(x) + sigma(x) eps

is what models see; without noise it is `(mu - m) / s`. What comes of examples before the noise, `mu` and `sigma`, can
be computed once (`encoded`) and drawn from again and again (`drawn`).

Examples have no density under a model of latents, but a bound on their log-probability, or log-density,

    log p(x) >= E_q [ log p(x | z) + log p(y) - log q(y | x) ],        log q(y | x) = log q(z | x) + sum log s,

whose second term is the density of latents, exact as any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from score_sde.common.float64 import in_float64
from score_sde.common.resumable import digest
from score_sde.data.units import (
    Bins,
    Noise,
    Points,
    Standardised,
    describe_units,
    mean_and_std,
    moments,
    units_described,
)

# Examples that are encoded or decoded together.
_AT_ONCE = 64


class Posterior(Protocol):
    """The distribution of the latents of examples is normal."""

    @property
    def mean(self) -> Tensor:
        """Its mean has shape `(B, channels, *size)`."""

    @property
    def std(self) -> Tensor:
        """Its standard deviation has the shape of the mean; it is 0 where latents are certain."""


class Autoencoder(Protocol):
    """An autoencoder makes latents of examples and back, as `models.autoencoder.Autoencoder` does."""

    @property
    def has_density(self) -> bool:
        """Whether latents are uncertain, so that examples have a bound through the decoder."""

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the latents of an example of this shape."""

    def posterior(self, x: Tensor) -> Posterior:
        """Return the distribution of the latents of examples `(B, *shape)`."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the examples of latents `(B, channels, *size)`."""

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Return `log p(x | z)` of examples `(B, *shape)`, `(B,)`, in nats."""

    def parameters(self) -> Any:
        """Iterate over the weights."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights by name."""


class DrawnLatents(NamedTuple):
    """Latents are drawn, in model units, with what they say of examples.

    Attributes:
        y: latents in model units `(B, channels, *size)`.
        log_q: `log q(y | x) - log p(x | z)` `(B,)`, in nats, float64: less the log-density of latents it bounds
            `-log p(x)`.
    """

    y: Tensor
    log_q: Tensor


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of an autoencoder are the numbers that models see.

    Args:
        autoencoder: makes latents of examples in the units `pixels`; its weights stay as they are.
        pixels: the units in which the autoencoder sees examples.
        about: what the autoencoder is made of, in plain values, for descriptions; `shape` is that of examples.
        mean: what becomes 0, of each channel `(C, 1, …)`, float64.
        std: what becomes 1, likewise.
    """

    autoencoder: Autoencoder
    pixels: Bins | Points | Standardised
    about: Mapping[str, Any] = field(default_factory=dict)
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    std: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.float64))
    spacing: float = 1.0

    @property
    def levels(self) -> int | None:
        """The levels are those of the examples that are decoded."""
        return self.pixels.levels

    @property
    def dtype(self) -> torch.dtype:
        """The dtype is that of examples."""
        return self.pixels.dtype if isinstance(self.pixels, Standardised) else torch.uint8

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of what models see of an example of this shape."""
        return self.autoencoder.shape_of(tuple(shape))

    def encoded(self, examples: Tensor) -> Tensor:
        """Return mean and deviation of the latents of examples `(B, *shape)`: `(B, 2, channels, *size)`."""
        if not len(examples):
            return torch.empty(0, 2, *self.shape_of(examples.shape[1:]))
        parts = []
        with torch.no_grad():
            for part in examples.split(_AT_ONCE):
                found = self.autoencoder.posterior(self._at_weights(self.pixels.encode(part)))
                parts.append(torch.stack([found.mean, found.std], 1).to(examples.device))
        return torch.cat(parts)

    def drawn(self, encoded: Tensor, noise: Noise | None = None) -> Tensor:
        """Return latents in model units, drawn of what `encoded` gave `(B, 2, …)`; without noise, their means."""
        mean, std = encoded.unbind(1)
        z = mean if noise is None else mean + std * noise.normal(mean)
        return self._standardised(z).to(z.device, torch.get_default_dtype())

    def encode(self, examples: Tensor, noise: Noise | None = None) -> Tensor:
        """Turn examples `(B, *shape)` into latents in model units; without noise, into their means."""
        return self.drawn(self.encoded(examples), noise)

    def decode(self, x: Tensor) -> Tensor:
        """Turn latents in model units `(B, channels, *size)` into examples."""
        with torch.no_grad():
            parts = [self.autoencoder.decode(self._at_weights(self._latents(part))) for part in x.split(_AT_ONCE)]
        return torch.cat([self.pixels.decode(part).to(x.device) for part in parts])

    def draw_and_rate(self, examples: Tensor, noise: Noise) -> DrawnLatents:
        """Draw latents of examples `(B, *shape)`, and say what they are worth."""
        y, log_q = [], []
        encoded = self.encoded(examples)
        mean, std = in_float64(encoded).unbind(1)
        draws = noise.normal(encoded[:, 0])
        of_noise = -0.5 * (in_float64(draws).square() + math.log(2 * math.pi)) - std.log()
        z = (mean + std * in_float64(draws)).to(encoded.dtype)
        with torch.no_grad():
            for part, each in zip(examples.split(_AT_ONCE), z.split(_AT_ONCE), strict=True):
                seen, latents = self._at_weights(self.pixels.encode(part)), self._at_weights(each)
                log_p = self.autoencoder.log_prob(seen, latents).cpu().double()
                y.append(self._standardised(each).to(each.device, torch.get_default_dtype()))
                log_q.append(of_noise[: len(part)].flatten(1).sum(1).cpu() - log_p)
                of_noise = of_noise[len(part) :]
        # That of latents in model units, and of examples in data units.
        scale = self.std.log().expand(z.shape[1:]).sum().item()
        return DrawnLatents(torch.cat(y), torch.cat(log_q) + scale - self._log_scales(examples.cpu()))

    def moments(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the latents of examples, over examples and noise; float64, of their shape."""
        return self.moments_of(self.encoded(examples))

    def moments_of(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `moments` does, of what `encoded` gave `(N, 2, …)`."""
        (mean, variance), (squares, _) = moments(encoded[:, 0]), moments(encoded[:, 1].square())
        return (mean - self.mean) / self.std, (variance + squares) / self.std**2

    def log_scale(self, shape: Sequence[int]) -> float:
        """Return `log |d y / d z|` of the latents of an example of this shape, in nats."""
        return -self.std.log().expand(self.shape_of(shape)).sum().item()

    def describe(self) -> dict[str, Any]:
        """Return what is known of the units: plain values, and the autoencoder itself."""
        pixels = self.pixels
        levels = None if isinstance(pixels, Standardised) else [pixels.levels, pixels.low, pixels.high]
        return {
            "about": dict(self.about),
            "autoencoder": self.autoencoder,
            "digest": self.digest,
            "bins": isinstance(pixels, Bins),
            "pixels": describe_units(pixels) if levels is None else levels,
            **{name: getattr(self, name).flatten().tolist() for name in ("mean", "std")},
        }

    @staticmethod
    def described(description: Mapping[str, Any]) -> Latents:
        """Return the units that `describe` described."""
        pixels, of_levels = description["pixels"], Bins if description["bins"] else Points
        units = of_levels(*pixels) if isinstance(pixels, list) else units_described(pixels)
        autoencoder, axes = description["autoencoder"], len(description["about"]["shape"]) - 1
        mean, std = (
            torch.tensor(description[name], dtype=torch.float64).reshape(-1, *(1,) * axes) for name in ("mean", "std")
        )
        return Latents(autoencoder, units, description["about"], mean, std)

    @cached_property
    def digest(self) -> str:
        """The digest is a short name for the autoencoder's weights."""
        return digest(*self.autoencoder.state_dict().values())

    def _standardised(self, z: Tensor) -> Tensor:
        return (in_float64(z) - self.mean.to(in_float64(z).device)) / self.std.to(in_float64(z).device)

    def _latents(self, x: Tensor) -> Tensor:
        exact = in_float64(x)
        return exact * self.std.to(exact.device) + self.mean.to(exact.device)

    def _at_weights(self, x: Tensor) -> Tensor:
        """Return numbers where the autoencoder's weights are, in their dtype, or float32 where they have less."""
        weight = next(iter(self.autoencoder.parameters()))
        return x.to(weight.device, torch.promote_types(weight.dtype, torch.float32))

    def _log_scales(self, examples: Tensor) -> Tensor | float:
        """Return `log |d x / d examples|` of the units in which densities of the autoencoder are; 0 of levels."""
        return self.pixels.log_scales(examples) if isinstance(self.pixels, Standardised) else 0.0


def scaled(units: Latents, encoded: Tensor) -> Latents:
    """Return latents with mean 0 and deviation 1 in each channel, over what `units.encoded` gave `(N, 2, …)`."""
    mean, std = mean_and_std(encoded[:, 0])
    places = tuple(range(1, mean.ndim))
    spread = moments(encoded[:, 1].square())[0].mean(places, keepdim=True)
    total = (std.square() + spread).sqrt()
    return Latents(units.autoencoder, units.pixels, units.about, mean, torch.where(total > 0, total, 1.0))
