r"""Perceptual distance: how far pictures are apart in what a network for pictures sees of them.

With `f_l(x)` a hidden state of `C_l` channels at `n_l` positions, and `u = f / |f|` over the channels at each position,

    distance(x, y) = sum_l 1/n_l sum_positions |u_l(x) - u_l(y)|^2

which is LPIPS without its linear weights (Zhang et al. 2018, arXiv:1801.03924, equation 1 with `w_l = 1`), by any
network of the library transformers that has hidden states: ResNet, ConvNeXt, DINOv2, ViT … Each `|u - u'|^2` lies
between 0 and 4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError, first_line
from score_sde.common.files import at_home
from score_sde.common.frozen_networks import read_frozen, transformers_library
from score_sde.common.resumable import digest

# Added to squared norms, which may vanish.
_TINY = 1e-8


class PerceptualDistance:
    """A frozen network measures how far pictures in model units are apart; gradients go to the second ones.

    Args:
        network: called as transformers' are, `network(pixel_values=…, output_hidden_states=True)`.
        mean: what the network takes off the three colours, which lie between 0 and 1.
        std: what it divides them by.
        black: the model unit of black …
        white: … and of white.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], black: float, white: float
    ) -> None:
        self.network, self.mean, self.std, self.black, self.white = network, mean, std, black, white

    @cached_property
    def digest(self) -> str:
        """The digest is a short name for what the network sees: its weights, and the scale of colours."""
        return digest(*self.network.state_dict().values(), torch.tensor([*self.mean, *self.std]))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of each of the pictures `x` from that of `y`, `(B, 1 or 3, H, W)` both, `(B,)`."""
        with torch.no_grad():
            wanted = self._directions(x)
        pairs = zip(wanted, self._directions(y), strict=True)
        return torch.stack([(u - v).square().sum(1).mean(1) for u, v in pairs]).sum(0)

    def _directions(self, x: Tensor) -> list[Tensor]:
        """Return the hidden states of pictures, of norm 1 at each position, `(B, C_l, n_l)` each."""
        colours = ((x - self.black) / (self.white - self.black)).expand(-1, 3, -1, -1)
        mean, std = torch.tensor([self.mean, self.std], dtype=x.dtype, device=x.device)[..., None, None]
        seen = (colours - mean) / std
        states = self.network(pixel_values=seen, output_hidden_states=True).hidden_states
        # Of maps the channels come first, of tokens last.
        rows = (state.flatten(2) if state.ndim == 4 else state.mT for state in states)
        exact = [row.to(torch.promote_types(row.dtype, torch.float32)) for row in rows]
        return [row * (row.square().sum(1, keepdim=True) + _TINY).rsqrt() for row in exact]


def read_perceptual(place: str, shape: tuple[int, ...], black: float, white: float) -> PerceptualDistance:
    """Read the network in a folder, which transformers has saved with what brings pictures to it.

    Args:
        place: the folder.
        shape: the shape of the pictures, `(1 or 3, H, W)`.
        black: the model unit of black …
        white: … and of white.

    Raises:
        UserError: there is no such network, or it takes no pictures of this size.
    """
    transformers = transformers_library("perceptual losses need: pip install 'score-sde[autoencoders]'")
    folder = at_home(place)
    try:
        about: dict[str, Any] = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = ([float(each) for each in about[key]] for key in ("image_mean", "image_std"))
        if not len(mean) == len(std) == 3:
            raise ValueError(f"it is for {len(mean)} colours")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is no folder of a network for pictures, as transformers saves them, with image_mean and "
            f"image_std in preprocessor_config.json: {error!r}"
        ) from error
    # All networks have eager attention, those without any, too.
    network = read_frozen(transformers.AutoModel, folder, "network", "eager")
    distance = PerceptualDistance(network, mean, std, black, white)
    try:
        blank = torch.zeros(1, *shape, device=next(distance.network.parameters()).device)
        distance(blank, blank)
    except Exception as error:  # networks refuse pictures in many ways
        size = " x ".join(map(str, shape[1:]))
        raise UserError(f"the network in {folder} does not look at pictures of {size}: {first_line(error)}") from error
    return distance
