"""The discriminator of adversarial losses: MONAI's patch discriminator (`pip install 'score-sde[autoencoders]'`).

Convolutions of width 4 halve sizes a few times and give a logit for each patch, 16, 34 or 70 numbers wide (Isola et al.
2017, arXiv:1611.07004). Groups of channels are normalised example by example; batch normalisation would let examples
know of each other.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from score_sde.common.errors import UserError

# Less than this leaves no patch.
_SMALLEST = 6
_MOST_HALVINGS = 3
_MOST_GROUPS = 32


class PatchDiscriminator(nn.Module):
    """A discriminator gives a logit of each patch; its patches are about as wide as examples, if those are small.

    Args:
        shape: the shape of examples, `(C, *size)`, of one to three axes.
        channels: channels of the first convolution; further ones have 2, 4 and 8 times as many.

    Raises:
        UserError: examples are too small, or MONAI is not installed.
    """

    def __init__(self, shape: tuple[int, ...], channels: int) -> None:
        super().__init__()
        smallest = min(shape[1:])
        if smallest < _SMALLEST:
            raise UserError(f"a discriminator of patches is for sizes of {_SMALLEST} and more, not {smallest}")
        try:
            # This imports much else, and takes seconds.
            from monai.networks.nets.patchgan_discriminator import PatchDiscriminator as Network
        except ImportError as error:
            raise UserError("adversarial losses need: pip install 'score-sde[autoencoders]'") from error
        self.network = Network(
            spatial_dims=len(shape) - 1,
            in_channels=shape[0],
            channels=channels,
            # About as many as leave 8 numbers along the shortest axis.
            num_layers_d=min(_MOST_HALVINGS, max(1, smallest.bit_length() - 4)),
            norm=("GROUP", {"num_groups": math.gcd(_MOST_GROUPS, channels)}),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the patches of examples `(B, C, *size)`, `(B, 1, *patches)`."""
        logits: Tensor = self.network(x)[-1]
        return logits
