r"""Embeddings of the noise level, and of a class label beside it.

    positional    e(l) = [sin(l w_k), cos(l w_k)],   w_k = 10000^(-k / (K - 1)),  k = 0 … K - 1
    Fourier       e(l) = [sin(2 pi w_k log l), cos(2 pi w_k log l)],   w_k ~ N(0, scale^2), fixed

DDPM has the first, with l the time in steps; NCSN++ the second, with l = sigma (Ho et al. 2020, arXiv:2006.11239;
Tancik et al. 2020, arXiv:2006.10739; Song et al. 2021, arXiv:2011.13456, appendix H).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.models.layers.basic import linear, transforms_active

_LONGEST_PERIOD = 10_000.0

# Standard deviation of class vectors at first: about twice the size of the embedding of time that they are added to.
# Smaller ones are heard later, larger ones drown the time.
_CLASS_STD = 0.5


class PositionalFeatures(nn.Module):
    """Sinusoidal features of a label counted in steps: `(B,)` to `(B, num_features)`."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        if num_features < 4:
            raise UserError(
                f"a positional embedding needs at least 4 channels, not {num_features}; raise the network's channels"
            )
        self.num_features = num_features

    def forward(self, labels: Tensor) -> Tensor:
        half = self.num_features // 2
        exponents = torch.arange(half, dtype=labels.dtype, device=labels.device)
        frequencies = torch.exp(exponents * (-math.log(_LONGEST_PERIOD) / (half - 1)))
        angles = labels[:, None] * frequencies
        return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, self.num_features % 2))


class FourierFeatures(nn.Module):
    """Random Fourier features of the logarithm of a label: `(B,)` to `(B, 2 num_frequencies)`. The frequencies are not
    trained.
    """

    def __init__(self, num_frequencies: int, scale: float) -> None:
        super().__init__()
        self.num_features = 2 * num_frequencies
        self.frequencies = nn.Parameter(torch.randn(num_frequencies) * scale, requires_grad=False)

    def forward(self, labels: Tensor) -> Tensor:
        angles = labels.log()[:, None] * self.frequencies.to(labels.dtype) * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class NoiseEmbedding(nn.Module):
    """What every residual block is told: features of the noise level through a two-layer network, plus a class vector
    if there are classes.

    Class `num_classes` (one more than the last) means "no class", and so does leaving `classes` out: networks trained
    with some classes dropped serve classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).

    Class vectors start apart, drawn from N(0, 1/4): had they to leave zero first, nothing would tell classes from each
    other while the network learns everything else. "No class" starts at zero.

    Args:
        features: maps labels `(B,)` to `(B, features.num_features)`.
        width: size of the embedding.
        num_classes: number of class labels, if any.
    """

    def __init__(
        self, features: PositionalFeatures | FourierFeatures, width: int, num_classes: int | None = None
    ) -> None:
        super().__init__()
        self.features = features
        self.hidden = linear(features.num_features, width)
        self.output = linear(width, width)
        self.num_classes = num_classes
        if num_classes is not None:
            self.class_vectors = nn.Embedding(num_classes + 1, width)
            with torch.no_grad():
                self.class_vectors.weight.mul_(_CLASS_STD)[num_classes] = 0.0  # they are drawn from N(0, 1)

    def forward(self, labels: Tensor, classes: Tensor | None = None) -> Tensor:
        """Embed labels `(B,)` and classes `(B,)`, as `(B, width)`.

        Sines of large arguments need a real number format: features are computed in the precision of the weights, but
        never in less than float32.

        Raises:
            UserError: classes are given to a network that has none, or are none of its classes.
        """
        dtype = self.hidden.weight.dtype
        features = self.features(labels.to(torch.promote_types(dtype, torch.float32)))
        embedding = self.output(F.silu(self.hidden(features.to(dtype))))
        if self.num_classes is not None:
            if classes is None:
                classes = torch.full_like(labels, self.num_classes, dtype=torch.long)
            # To look at numbers is to wait for a GPU, as no step of training should.
            elif not (transforms_active() or torch.compiler.is_compiling() or (self.training and classes.is_cuda)):
                self._check(classes)
            embedding = embedding + self.class_vectors(classes)
        elif classes is not None:
            raise UserError(
                "this network was built without classes; give it num_classes, or leave the class labels out"
            )
        return F.silu(embedding)

    def _check(self, classes: Tensor) -> None:
        assert self.num_classes is not None
        if classes.is_floating_point() or bool(((classes < 0) | (classes > self.num_classes)).any()):
            raise UserError(f"classes must be whole numbers from 0 to {self.num_classes}, the last of which means none")
