r"""Embeddings of the noise label, the number that a network is told of the time.

    positional    e(l) = [sin(l w_k), cos(l w_k)],   w_k = 10000^(-k / (K - 1)),  k = 0 … K - 1
    Fourier       e(l) = [sin(2 pi w_k log l), cos(2 pi w_k log l)],   w_k ~ N(0, scale^2), fixed

DDPM has the first, with l the time in steps; NCSN++ the second, with l = sigma (Ho et al. 2020, arXiv:2006.11239;
Tancik et al. 2020, arXiv:2006.10739; Song et al. 2021, arXiv:2011.13456, appendix H). DiT has the first with cosines
before sines, and 10000^(-k / K) (Peebles & Xie 2022, arXiv:2212.09748).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.basic import linear
from score_sde.models.layers.condition import ConditionVectors, Kind

_LONGEST_PERIOD = 10_000.0


class PositionalFeatures(nn.Module):
    """Sines and cosines describe a noise label counted in steps: `(B,)` to `(B, num_features)`."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        if num_features < 4:
            raise UserError(
                f"a positional embedding needs at least 4 channels, not {num_features}; raise the network's channels"
            )
        self.num_features = num_features

    def forward(self, noise_label: Tensor) -> Tensor:
        half = self.num_features // 2
        exponents = torch.arange(half, dtype=noise_label.dtype, device=noise_label.device)
        frequencies = torch.exp(exponents * (-math.log(_LONGEST_PERIOD) / (half - 1)))
        angles = noise_label[:, None] * frequencies
        return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, self.num_features % 2))


class CosineFeatures(nn.Module):
    """Cosines and sines describe a noise label, `(B,)` to `(B, num_features)`, with the frequencies of DiT.

    Args:
        num_features: 2 K, an even number.
        last: the index of the frequency 1/10000: K, which is never reached, or K - 1 as in the library diffusers.
    """

    def __init__(self, num_features: int, last: int | None = None) -> None:
        super().__init__()
        self.num_features = num_features
        self.last = num_features // 2 if last is None else last

    def forward(self, noise_label: Tensor) -> Tensor:
        exponents = torch.arange(self.num_features // 2, dtype=noise_label.dtype, device=noise_label.device)
        # The order of the operations is that of the published code, which makes the same numbers to the last bit.
        frequencies = torch.exp(-math.log(_LONGEST_PERIOD) * exponents / self.last)
        angles = noise_label[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierFeatures(nn.Module):
    """Random, untrained frequencies describe the logarithm of a noise label: `(B,)` to `(B, 2 num_frequencies)`."""

    def __init__(self, num_frequencies: int, scale: float) -> None:
        super().__init__()
        self.num_features = 2 * num_frequencies
        self.frequencies = nn.Parameter(torch.randn(num_frequencies) * scale, requires_grad=False)

    def forward(self, noise_label: Tensor) -> Tensor:
        angles = noise_label.log()[:, None] * self.frequencies.to(noise_label.dtype) * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class NoiseEmbedding(nn.Module):
    """Every residual block is told features of the noise label, through two layers, and the vectors of a condition.

    Args:
        features: maps noise labels `(B,)` to `(B, features.num_features)`.
        width: size of the embedding.
        conditions: what the network is told beside the time, by name: numbers and vectors; see `ConditionVectors`.
    """

    def __init__(
        self,
        features: PositionalFeatures | CosineFeatures | FourierFeatures,
        width: int,
        conditions: Mapping[str, Kind] | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.hidden = linear(features.num_features, width)
        self.output = linear(width, width)
        self.condition = ConditionVectors(conditions, width) if conditions else None

    def forward(self, noise_label: Tensor, condition: Condition | None = None) -> Tensor:
        """Embed noise labels `(B,)` and the condition of as many examples, as `(B, width)`.

        Sines of large arguments need a real number format: features are computed in the precision of the weights, but
        never in less than float32.

        Raises:
            UserError: the network is told of no conditions, or not of this one.
        """
        dtype = self.hidden.weight.dtype
        features = self.features(noise_label.to(torch.promote_types(dtype, torch.float32)))
        embedding = self.output(F.silu(self.hidden(features.to(dtype))))
        if self.condition is not None:
            embedding = embedding + self.condition(condition, len(noise_label))
        elif condition is not None:
            raise UserError("this network was built without conditions; give it some, or leave the condition out")
        return F.silu(embedding)
