r"""A bound for data whose latents are modelled: what the decoder says of them, and what their latents cost.

    log p(x) >= E_q [ log p(x | z) + log p(z) - log q(z | x) ]

with the encoder's `q`, the decoder's `p(x | z)` and the density `p(z)` of the model of latents, so that here, too,
`log p - log q` of a draw is what is measured, with `log q = log q(z | x) - log p(x | z)`; see
`evaluation.likelihood.dequantisation`, whose bounds with several draws hold as well.
"""

from __future__ import annotations

from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.data.latent_units import Latents
from score_sde.evaluation.likelihood.dequantisation import Dequantised

# What `bits_per_dim` is, for files.
KIND = "bound through the decoder of an autoencoder"


class ThroughDecoder:
    """Latents are drawn by the encoder, and pay for what the decoder says of examples.

    Args:
        units: the latents.

    Raises:
        UserError: latents are certain, so that they have no density given an example.
    """

    t_min = None

    def __init__(self, units: Latents) -> None:
        if not units.autoencoder.has_density:
            raise UserError(
                "latents of this autoencoder are certain given an example, so that no density of theirs bounds its "
                "likelihood: take a kl_autoencoder, or an AutoencoderKL"
            )
        self.units = units

    def sample(self, levels: Tensor, noise: SampleNoise) -> Dequantised:
        """Draw latents of examples `(B, *dims)`."""
        return Dequantised(*self.units.draw_and_rate(levels, noise))
