r"""The autoencoder of a pipeline: the library diffusers' own, between pictures and the latents that networks know.

    z = s (E(y) - m),          y = D(z / s + m),         y in [-1, 1]

with `s` the `scaling_factor` and `m` the `shift_factor` of its settings, 0 if there is none. Of an `AutoencoderKL`,
`E(y)` is the mean of a Gaussian, or a draw from it; a `VQModel` takes, in `D`, the nearest of its codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise, SampleNoise

KL, VQ = "AutoencoderKL", "VQModel"
_LEVELS = 255


class PictureAutoencoder(nn.Module):
    """An autoencoder makes latents of pictures, and pictures of latents, one after the other.

    Args:
        network: the library's autoencoder.

    Attributes:
        factor: how many times a picture is as wide as its latents.
        channels: channels of the latents.
        picture_channels: channels of the pictures.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, config = network, network.config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.channels, self.picture_channels = config.latent_channels, config.out_channels
        self.scale, self.shift = float(config.scaling_factor), float(config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def encode(self, pictures: Tensor, noise: SampleNoise | BatchNoise | None = None) -> Tensor:
        """Return the latents of pictures, uint8 `(N, C, H, W)`, float32; their means, or a draw with the noise.

        Raises:
            UserError: pictures have other channels, or sizes that are no multiples of `factor`.
        """
        wrong = any(size % self.factor or not size for size in pictures.shape[2:])
        if pictures.ndim != 4 or pictures.shape[1] != self.picture_channels or wrong:
            raise UserError(
                f"this autoencoder takes pictures (N, {self.picture_channels}, H, W) with H and W multiples of "
                f"{self.factor}, not {tuple(pictures.shape)}"
            )
        weight = next(self.network.parameters())
        made = []
        for picture in pictures:
            states = (picture[None].to(weight.device).float() / _LEVELS * 2 - 1).to(weight.dtype)
            answer = self.network.encode(states)
            if hasattr(answer, "latents"):
                made.append((answer.latents, torch.zeros_like(answer.latents)))
            else:
                made.append((answer.latent_dist.mean, answer.latent_dist.std))
        mean, std = (torch.cat(parts).float() for parts in zip(*made, strict=True))
        drawn = mean if noise is None else mean + std * noise.normal(mean)
        return self.scale * (drawn - self.shift)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures of latents `(N, C, h, w)`, as numbers of which -1 is black and 1 white, float32."""
        weight = next(self.network.parameters())
        made = []
        for each in latents:
            states = (each[None].to(weight.device) / self.scale + self.shift).to(weight.dtype)
            made.append(self.network.decode(states).sample.float())
        return torch.cat(made)

    def pictures(self, latents: Tensor) -> Tensor:
        """Return pictures of latents `(N, C, h, w)`, levels, uint8 `(N, C, H, W)`."""
        return (self.decode(latents).clamp(-1, 1) * (_LEVELS / 2) + _LEVELS / 2).round().to(torch.uint8)
