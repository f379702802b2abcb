"""Features against a second, plain computation; the same numbers on every machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import correlate, correlate2d

from score_sde.evaluation.samples.features import random_features


def test_cosine_features_are_those_stated() -> None:
    data = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0]) + 5
    x = data[:7]
    features = random_features(data)(x)
    draws = np.random.RandomState(0)
    w, b = draws.standard_normal((2, 64)), draws.uniform(0, 2 * np.pi, 64)
    centred = data.double().numpy() - data.double().numpy().mean(0)
    z = centred[:7] / np.sqrt((centred**2).mean())
    np.testing.assert_allclose(features[:, :2], z, rtol=1e-12)
    for k, length in enumerate([1, 0.5, 0.25, 0.1]):
        np.testing.assert_allclose(features[:, 2 + k], np.cos(z @ w[:, k] / length + b[k]), atol=1e-12)
    assert features.shape == (7, 66)


def test_convolutional_features_are_those_stated() -> None:
    data = torch.rand(600, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    features = random_features(data)(data)
    draws = np.random.RandomState(0)
    w_1, b_1 = draws.standard_normal((64, 2, 3, 3)) / 3, 0.1 * draws.standard_normal(64)
    w_2, b_2 = draws.standard_normal((64, 64, 3, 3)) * np.sqrt(2 / 576), 0.1 * draws.standard_normal(64)
    image = (data[550].double().numpy() - data.double().numpy().mean()) / data.double().numpy().std()

    def layer(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        sums = [sum(correlate2d(x[c], w[k, c], "same") for c in range(len(x))) + b[k] for k in range(len(w))]
        return np.maximum(np.stack(sums), 0)

    hidden = layer(image, w_1, b_1)
    blocks = [[hidden[:, i : i + 2, j : j + 2].mean((1, 2)) for j in (0, 2, 4)] for i in (0, 2, 4)]
    pooled = np.moveaxis(np.array(blocks), 2, 0)
    np.testing.assert_allclose(features[550], layer(pooled, w_2, b_2).mean((1, 2)), rtol=1e-9)
    assert features.shape == (600, 64)


def test_features_do_not_depend_on_units() -> None:
    data = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(random_features(data)(data), random_features(9 * data - 3)(9 * data - 3), rtol=1e-9)


@pytest.mark.parametrize("sizes", [(7,), (5, 4, 3)])
def test_features_along_one_and_three_axes_are_those_stated(sizes) -> None:
    data = torch.rand(20, 2, *sizes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = random_features(data)(data)
    draws, axes = np.random.RandomState(0), len(sizes)
    w_1, b_1 = draws.standard_normal((64, 2, *[3] * axes)) / np.sqrt(3**axes), 0.1 * draws.standard_normal(64)
    w_2, b_2 = draws.standard_normal((64, 64, *[3] * axes)) * np.sqrt(2 / (3**axes * 64)), draws.standard_normal(64)
    example = (data[9].numpy() - data.numpy().mean()) / data.numpy().std()

    def layer(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        sums = [sum(correlate(x[c], w[k, c], "same", "direct") for c in range(len(x))) + b[k] for k in range(len(w))]
        return np.maximum(np.stack(sums), 0)

    hidden = layer(example, w_1, b_1)
    for axis in range(1, axes + 1):
        pairs = [hidden.take(range(i, min(i + 2, hidden.shape[axis])), axis) for i in range(0, hidden.shape[axis], 2)]
        hidden = np.stack([pair.mean(axis) for pair in pairs], axis)
    expected = layer(hidden, w_2, 0.1 * b_2).reshape(64, -1).mean(1)
    np.testing.assert_allclose(features[9], expected, rtol=1e-9)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"with one to three sizes, not \(4, 3, 2, 2, 2, 2\)"):
        random_features(torch.zeros(4, 3, 2, 2, 2, 2))
