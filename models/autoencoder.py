r"""Autoencoders: few numbers `z` for an example `x`, and `x` again, as well as `z` knows it.

KL autoencoder (Kingma & Welling 2014, arXiv:1312.6114; Rombach et al. 2022, arXiv:2112.10752). The encoder gives a
normal `q(z | x) = N(mu(x), diag sigma(x)^2)`, the decoder `p(x | z)` (`models.decoded`), and with `p(z) = N(0, I)`

    log p(x) >= E_q log p(x | z) - KL(q(z | x) || p(z)),        KL = 1/2 sum (mu^2 + sigma^2 - 1 - log sigma^2).

VQ autoencoder (van den Oord et al. 2017, arXiv:1711.00937). The encoder's vector at each position is replaced by the
nearest of `K` codes `e_k`; gradients pass straight through to the encoder, codes follow the vectors, and vectors keep
near their codes:

    z = e_k,  k = argmin |z_e - e_k|,      penalty = |sg(z_e) - e_k|^2 + beta |z_e - sg(e_k)|^2,      rate = n log K

of `n` positions under codes that are equally probable. (The first term of the penalty is what their exponential moving
averages minimise; as a loss it needs no state, and several processes have the same codes.) What other models see of an
example is `z_e`, and the decoder replaces it: quantisation is its first layer (Rombach et al., section 3.1).

Rate `R` and distortion `D = -E log p(x | z)` are in nats an example; `R + D` bounds `-log p(x)`: of levels a
probability, of other numbers a density in model units.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.models.decoded import Logistic, Normal
from score_sde.models.networks.autoencoder import ConvDecoder
from score_sde.models.tiles import decode_in_tiles

# More latents along an axis are decoded in tiles of so many.
TILE = 64


class NormalNoise(Protocol):
    """Draws normal numbers, as `common.noise.SampleNoise` and `BatchNoise` do."""

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers of the shape, dtype and device of `like`."""


class Posterior(NamedTuple):
    """What an encoder says of examples: a normal distribution of latents.

    Attributes:
        mean: its mean `(B, channels, *size)`.
        std: its standard deviation, shape of the mean; 0 where latents are certain.
    """

    mean: Tensor
    std: Tensor


class Terms(NamedTuple):
    """What an autoencoder makes of examples, each `(B,)`, in nats, if nothing else is said.

    Attributes:
        rate: what latents cost.
        distortion: what the examples cost, given the latents.
        penalty: what is added in training.
        error: the mean squared difference of examples and of what is most likely by the decoder, in model units.
        decoded: what is decoded of the latents that were drawn, in model units, `(B, C, *size)`.
    """

    rate: Tensor
    distortion: Tensor
    penalty: Tensor
    error: Tensor
    decoded: Tensor


class Autoencoder(nn.Module):
    """An encoder, a decoder, and the distribution of examples around what is decoded.

    Args:
        encoder: makes features `(B, features, *size / f)` of examples in model units `(B, C, *size)`.
        decoder: makes `(B, C, *size)` of latents `(B, channels, *size / f)`.
        decoded: the distribution around it; has `log_prob(x, decoded)`.
        factor: how many times smaller latents are along each axis.
        channels: channels of the latents.
    """

    has_density: bool

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, decoded: Logistic | Normal, factor: int, channels: int
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.decoded = encoder, decoder, decoded
        self.factor, self.channels = factor, channels

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the latents of an example of this shape.

        Raises:
            UserError: its sizes cannot be divided.
        """
        if any(size % self.factor for size in shape[1:]):
            raise UserError(
                f"sizes are divided by {self.factor}, and {' x '.join(map(str, shape[1:]))} cannot be: pad or resize "
                "examples, or take fewer resolutions"
            )
        return self.channels, *(size // self.factor for size in shape[1:])

    def posterior(self, x: Tensor) -> Posterior:
        """Return the distribution of the latents of examples in model units `(B, C, *size)`."""
        raise NotImplementedError

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return what is decoded of the means of latents of examples in model units; shape of `x` `(B, C, *size)`."""
        return self.decode(self.posterior(x).mean)

    def decode(self, z: Tensor) -> Tensor:
        """Return what is decoded of latents `(B, channels, *size / f)`, in model units, `(B, C, *size)`.

        Without gradients, many latents are decoded tile by tile.
        """
        codes, decoder = self.rounded(z), self.decoder
        if torch.is_grad_enabled() or not isinstance(decoder, ConvDecoder) or not self._in_tiles(decoder, z):
            return decoder(codes)
        return decode_in_tiles(decoder, codes, self.factor, TILE, 2 * decoder.radius)

    def rounded(self, z: Tensor) -> Tensor:
        """Return what the decoder sees of latents; shape of `z`."""
        return z

    @staticmethod
    def _in_tiles(decoder: ConvDecoder, z: Tensor) -> bool:
        """Return whether there are so many latents that they are decoded tile by tile, by a decoder that can be."""
        fits = not decoder.periodic and 2 * decoder.radius <= TILE
        return fits and max(z.shape[2:]) > TILE + 2 * decoder.radius

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Return `log p(x | z)` of examples in model units given their latents, `(B,)`, in nats."""
        return self.decoded.log_prob(x, self.decode(z))

    def terms(self, x: Tensor, noise: NormalNoise) -> Terms:
        """Return rate, distortion and penalty of examples in model units `(B, C, *size)`."""
        raise NotImplementedError

    @torch.no_grad()
    def _error(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Return the mean squared error of what is most likely of each example, `(B,)`."""
        decoded = decoded.to(torch.promote_types(decoded.dtype, torch.float32))
        return (x - self.decoded.most_likely(decoded)).square().flatten(1).mean(1)


class KLAutoencoder(Autoencoder):
    """The latents of this autoencoder are normal; the encoder gives means and log-variances."""

    has_density = True

    def posterior(self, x: Tensor) -> Posterior:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        mean, log_variance = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (mean, log_variance))
        return Posterior(mean, (0.5 * log_variance.clamp(-30, 20)).exp())

    def terms(self, x: Tensor, noise: NormalNoise) -> Terms:
        posterior = self.posterior(x)
        decoded = self.decode(posterior.mean + posterior.std * noise.normal(posterior.mean))
        distortion = -self.decoded.log_prob(x, decoded)
        return Terms(kl(posterior), distortion, torch.zeros_like(distortion), self._error(x, decoded), decoded)


class VQAutoencoder(Autoencoder):
    """The latents of this autoencoder are rounded to codes; arguments as above.

    Args:
        num_codes: the number of codes `K`.
        commitment: the weight `beta` of the penalty that keeps vectors near their codes.
    """

    has_density = False

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        decoded: Logistic | Normal,
        factor: int,
        channels: int,
        num_codes: int,
        commitment: float = 0.25,
    ) -> None:
        super().__init__(encoder, decoder, decoded, factor, channels)
        self.commitment = commitment
        self.codes = nn.Parameter(torch.randn(num_codes, channels) / math.sqrt(channels))

    def posterior(self, x: Tensor) -> Posterior:
        mean = self.encoder(x)
        mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
        return Posterior(mean, torch.zeros_like(mean))

    def nearest(self, z: Tensor) -> Tensor:
        """Return the number of the nearest code at each position of `z` `(B, channels, *size)`; `(B, *size)`."""
        vectors = z.movedim(1, -1).to(self.codes.dtype)
        return torch.cdist(vectors.flatten(0, -2), self.codes).argmin(1).reshape(vectors.shape[:-1])

    def rounded(self, z: Tensor) -> Tensor:
        return self.codes[self.nearest(z)].movedim(-1, 1)

    def terms(self, x: Tensor, noise: NormalNoise) -> Terms:
        z = self.posterior(x).mean
        numbers = self.nearest(z)
        codes = self.codes[numbers].movedim(-1, 1)
        decoded = self.decoder(z + (codes - z).detach())
        distortion = -self.decoded.log_prob(x, decoded)
        follow, stay = ((one - other.detach()).square().flatten(1).sum(1) for one, other in ((codes, z), (z, codes)))
        rate = torch.full_like(distortion, numbers[0].numel() * math.log(len(self.codes)))
        return Terms(rate, distortion, follow + self.commitment * stay, self._error(x, decoded), decoded)


def kl(posterior: Posterior) -> Tensor:
    """Return `KL(q || N(0, I))` of each example, `(B,)`, in nats."""
    mean, std = posterior
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(1)


def perplexity(numbers: Tensor, count: int) -> float:
    """Return how many of `count` codes are in use, as `exp` of the entropy of their `numbers` (any shape)."""
    shares = torch.bincount(numbers.flatten().cpu(), minlength=count).double() / numbers.numel()
    return float(torch.special.entr(shares).sum().exp())
