r"""The space in which samples are compared with data: fixed random features, the same on every machine.

Data this small have no pretrained network. Features drawn once, from NumPy's frozen generator with a fixed seed, see
what means and covariances of pixels do not, and they favour no model, since nothing in them is trained.

    images (channels, height, width)     64 features: two layers of 3x3 convolutions with weights N(0, 2 / fan_in),
                                         biases N(0, 0.01), ReLU and 2x2 averaging after the first, ReLU and the mean
                                         over positions after the second; pixels enter with the data's mean 0, std 1
    series, fields, volumes              the same, along the axes there are: convolutions of width 3, averages over 2
    vectors (d,)                         the d coordinates, and 64 cosines cos(w·x / l + b) with w ~ N(0, I), b uniform,
                                         l = 1, 1/2, 1/4 and 1/10 in turn; coordinates enter with the data's mean 0 and
                                         mean square 1

On 8x8 digits, 360 images against the 360 test images, the Fréchet distance of these features tells a blur of 0.4
pixels, noise of one grey level, and samples of a mixture of 40 Gaussians from training images by 11, 8 and 10 standard
deviations; that of the pixels by 5, 5 and 8. A missing class they hardly see (1 and 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Features = Callable[[Tensor], np.ndarray]

NUM_FEATURES = 64
_SEED = 0
_LENGTH_SCALES = (1.0, 0.5, 0.25, 0.1)
_BIAS_STD = 0.1
# So many examples at a time are taken through the convolutions, or fewer, if they have more positions than this.
_CHUNK, _POSITIONS = 512, 1024
_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_AVERAGES = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def random_features(data: Tensor) -> Features:
    """Return the feature map for data of this kind.

    Args:
        data: examples `(N, d)` or `(N, channels, *sizes)`, of one to three sizes; their mean and scale normalise the
            input.

    Returns:
        A function of samples `(M, *dims)` in the same units, giving features `(M, k)`, float64.

    Raises:
        ValueError: examples have another shape.
    """
    if data.ndim == 2:
        return _cosine_features(data.double())
    if data.ndim - 2 in _CONVOLUTIONS:
        return _convolutional_features(data.double())
    raise ValueError(f"features are of (N, d) or (N, C, *sizes) with one to three sizes, not {tuple(data.shape)}")


def _cosine_features(data: Tensor) -> Features:
    dimension = data.shape[1]
    mean, scale = data.mean(0), _scale(data - data.mean(0))
    draws = np.random.RandomState(_SEED)
    lengths = np.resize(_LENGTH_SCALES, NUM_FEATURES)
    frequencies = torch.from_numpy(draws.standard_normal((dimension, NUM_FEATURES)) / lengths)
    phases = torch.from_numpy(draws.uniform(0, 2 * np.pi, NUM_FEATURES))

    def features(x: Tensor) -> np.ndarray:
        z = (x.cpu().double() - mean) / scale
        return torch.cat([z, torch.cos(z @ frequencies + phases)], dim=1).numpy()

    return features


def _convolutional_features(data: Tensor) -> Features:
    mean, scale = data.mean(), _scale(data - data.mean())
    draws = np.random.RandomState(_SEED)
    axes, layers = data.ndim - 2, []
    convolve, average = _CONVOLUTIONS[axes], _AVERAGES[axes]
    chunk = max(1, min(_CHUNK, _CHUNK * _POSITIONS // data[0, 0].numel()))
    for channels in (data.shape[1], NUM_FEATURES):
        weights = draws.standard_normal((NUM_FEATURES, channels, *(3,) * axes)) * np.sqrt(2 / (3**axes * channels))
        layers.append((torch.from_numpy(weights), torch.from_numpy(_BIAS_STD * draws.standard_normal(NUM_FEATURES))))
    first, second = layers

    def features(x: Tensor) -> np.ndarray:
        parts = []
        for part in x.split(chunk):
            hidden = (part.cpu().double() - mean) / scale
            hidden = average(convolve(hidden, *first, padding=1).relu(), 2, ceil_mode=True)
            parts.append(convolve(hidden, *second, padding=1).relu().mean(tuple(range(2, 2 + axes))))
        return torch.cat(parts).numpy()

    return features


def _scale(centred: Tensor) -> Tensor:
    """Return the root mean square over examples and coordinates; 1 for data that are all alike."""
    scale = centred.square().mean().sqrt()
    return scale if scale > 0 else torch.ones_like(scale)
