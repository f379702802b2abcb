r"""An autoencoder of the library diffusers, between pictures and the latents that networks know.

    z = s (E(y) - m),          y = D(z / s + m),         y in [-1, 1]

with `s` the `scaling_factor` and `m` the `shift_factor` of its settings, 0 if there is none. Of an `AutoencoderKL`,
`E(y)` is the mean of a Gaussian, or a draw from it; a `VQModel` takes, in `D`, the nearest of its codes.

Its decoder gives a mean and no distribution. Where one is wanted, for a bound on likelihoods, it is a discretised
logistic one around that mean, of one width that is told (`models.decoded`).

Pictures larger than 1536 pixels along an axis are encoded and decoded by an `AutoencoderKL` in tiles of that size, as
the library does it: a quarter of a tile lies over the next, and is blended. Its norms and its attention then see a tile
in place of the picture, so that numbers differ a little from those of the whole.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise, SampleNoise
from score_sde.data.units import Bins
from score_sde.models.autoencoder import Posterior
from score_sde.models.decoded import log_prob_of_levels
from score_sde.models.pretrained.diffusers_files import read_json
from score_sde.models.pretrained.diffusers_library import library
from score_sde.models.pretrained.diffusers_parts import read_network

KL, VQ = "AutoencoderKL", "VQModel"
# What pipelines call their autoencoders.
_PARTS = ("vae", "vqvae")
_LEVELS = 256
# The side of a tile, in pixels.
_TILE = 1536
# Pixels of small pictures that are encoded or decoded together.
_AT_ONCE = 2**16


class PictureAutoencoder(nn.Module):
    """An autoencoder makes latents of pictures, and pictures of latents; those of 256 x 256 and more one by one.

    Args:
        network: the library's autoencoder.
        levels: the number of levels of pictures.
        width: that of the distribution of levels around what is decoded, in parts of which white is 2 from black; None
            for none.

    Attributes:
        factor: how many times a picture is as wide as its latents.
        channels: channels of the latents.
        picture_channels: channels of the pictures.
        pixels: what the autoencoder sees of levels: black is -1 and white 1.
    """

    def __init__(self, network: Any, levels: int = _LEVELS, width: float | None = None) -> None:
        super().__init__()
        self.network, config = network, network.config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.channels, self.picture_channels = config.latent_channels, config.out_channels
        self.scale, self.shift = float(config.scaling_factor), float(config.get("shift_factor") or 0.0)
        self.pixels, self.width = Bins(levels, -levels / (levels - 1), levels / (levels - 1)), width
        if hasattr(network, "use_tiling"):
            network.enable_tiling()
            network.tile_sample_min_size, network.tile_latent_min_size = _TILE, _TILE // self.factor

    @property
    def is_certain(self) -> bool:
        """Whether latents are certain, given a picture."""
        return type(self.network).__name__ == VQ

    @property
    def has_density(self) -> bool:
        """Whether latents are uncertain, and decoded pictures have a distribution, so that these have a bound."""
        return self.width is not None

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the latents of a picture of this shape.

        Raises:
            UserError: pictures have other channels, or sizes that are no multiples of `factor`.
        """
        wrong = any(size % self.factor or not size for size in shape[1:])
        if len(shape) != 3 or shape[0] != self.picture_channels or wrong:
            raise UserError(
                f"this autoencoder takes pictures ({self.picture_channels}, H, W) with H and W multiples of "
                f"{self.factor}, not {tuple(shape)}"
            )
        return self.channels, shape[1] // self.factor, shape[2] // self.factor

    @torch.no_grad()
    def posterior(self, x: Tensor) -> Posterior:
        """Return the distribution of latents of pictures in the units `pixels`, `(N, C, H, W)`, float32.

        Raises:
            UserError: as of `shape_of`.
        """
        self.shape_of(tuple(x.shape[1:]))
        weight, made = next(self.network.parameters()), []
        for part in x.split(_together(math.prod(x.shape[2:]))):
            # In one order in memory, by which sums are rounded.
            answer = self.network.encode(part.to(weight.device, weight.dtype).contiguous())
            if self.is_certain:
                made.append((answer.latents, torch.zeros_like(answer.latents)))
            else:
                made.append((answer.latent_dist.mean, answer.latent_dist.std))
        mean, std = (torch.cat(parts).float() for parts in zip(*made, strict=True))
        return Posterior(self.scale * (mean - self.shift), self.scale * std)

    def encode(self, pictures: Tensor, noise: SampleNoise | BatchNoise | None = None) -> Tensor:
        """Return the latents of pictures, levels `(N, C, H, W)`, float32; their means, or a draw with the noise.

        Raises:
            UserError: as of `shape_of`.
        """
        mean, std = self.posterior(self.pixels.encode(pictures))
        return mean if noise is None else mean + std * noise.normal(mean)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return pictures of latents `(N, C, h, w)`, as numbers of which -1 is black and 1 white, float32."""
        weight, made = next(self.network.parameters()), []
        for part in z.split(_together(self.factor**2 * math.prod(z.shape[2:]))):
            states = (part.to(weight.device) / self.scale + self.shift).to(weight.dtype)
            made.append(self.network.decode(states).sample.float())
        return torch.cat(made)

    def pictures(self, latents: Tensor) -> Tensor:
        """Return pictures of latents `(N, C, h, w)`, levels, uint8 `(N, C, H, W)`."""
        return self.pixels.decode(self.decode(latents))

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Return `log P(levels | z)` of pictures in the units `pixels`, `(N, C, H, W)`, `(N,)`, in nats."""
        assert self.width is not None, "no width was told"
        mean, pixels = self.decode(z), self.pixels
        log_width = torch.tensor(self.width, dtype=torch.float64).log().to(mean)
        return log_prob_of_levels(x.to(mean), mean, log_width, pixels.levels, pixels.place, pixels.spacing)


def is_of_library(folder: Path) -> bool:
    """Return whether a folder is one of the library's: of a pipeline, or of a part of one."""
    if (folder / "model_index.json").is_file():
        return True
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and "_class_name" in settings


def read_autoencoder(folder: Path, levels: int = _LEVELS) -> PictureAutoencoder:
    """Read the autoencoder of a folder, which is its own or that of a pipeline.

    Args:
        folder: the folder.
        levels: the number of levels of pictures.

    Raises:
        UserError: there is none, a file of it is missing, damaged or a pickle, or it is of another class.
    """
    place, diffusers = folder, library()
    if (folder / "model_index.json").is_file():
        parts = read_json(folder / "model_index.json")
        names = [name for name in _PARTS if isinstance(parts.get(name), list) and any(parts[name])]
        if not names:
            raise UserError(f"{folder} is a pipeline without an autoencoder: it has no {' and no '.join(_PARTS)}")
        place = folder / names[0]
    kind = read_json(place / "config.json").get("_class_name")
    if kind not in (KL, VQ):
        raise UserError(f"{place} is of a {kind}, and autoencoders that are read are {KL} and {VQ}")
    network = read_network(folder, place, diffusers, kind, safetensors_only=True)
    if network.config.in_channels != network.config.out_channels:
        raise UserError(
            f"{place} makes {network.config.out_channels} channels of {network.config.in_channels}, no pictures again"
        )
    return PictureAutoencoder(network.eval().requires_grad_(False), levels)


def _together(num_pixels: int) -> int:
    """Return how many pictures of so many pixels are encoded or decoded together."""
    return max(1, _AT_ONCE // num_pixels)
