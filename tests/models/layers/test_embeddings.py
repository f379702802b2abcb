"""Embeddings of noise levels and classes against their formulas."""

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.models.layers.embeddings import FourierFeatures, NoiseEmbedding, PositionalFeatures

LABELS = torch.tensor([0.0, 17.0, 640.5], dtype=torch.float64)


@pytest.mark.parametrize("num_features", [8, 9])
def test_positional_features(num_features):
    features = PositionalFeatures(num_features)(LABELS)
    half = num_features // 2
    for row, label in zip(features, LABELS.tolist(), strict=True):
        angles = [label * 10_000 ** (-k / (half - 1)) for k in range(half)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [0.0] * (num_features % 2)
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_fourier_features():
    features = FourierFeatures(4, scale=16.0).double()
    sigmas = torch.tensor([0.01, 50.0], dtype=torch.float64)
    angles = 2 * math.pi * features.frequencies * sigmas.log()[:, None]
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)
    torch.testing.assert_close(features(sigmas), expected, rtol=0, atol=1e-11)


def test_fourier_frequencies_have_the_given_scale_and_are_not_trained():
    torch.manual_seed(0)
    frequencies = FourierFeatures(10_000, scale=16.0).frequencies
    assert frequencies.std().item() == pytest.approx(16, rel=0.03)
    assert not frequencies.requires_grad


def test_features_keep_float32_under_half_precision_weights():
    """bfloat16 cannot tell 640 from 641; the features can."""
    torch.manual_seed(0)
    embedding = NoiseEmbedding(PositionalFeatures(64), 16)
    half = NoiseEmbedding(PositionalFeatures(64), 16).bfloat16()
    half.load_state_dict(embedding.state_dict())
    labels = torch.tensor([640.0, 641.0])
    full_difference, half_difference = (-e(labels).diff(dim=0).double().norm() for e in (embedding, half))
    assert half_difference.item() == pytest.approx(full_difference.item(), rel=0.05)


def test_classes_add_a_vector_and_no_class_is_one_of_them():
    torch.manual_seed(0)
    embedding = NoiseEmbedding(PositionalFeatures(8), 16, num_classes=10).double()
    without = NoiseEmbedding(PositionalFeatures(8), 16).double()
    without.load_state_dict(embedding.state_dict(), strict=False)
    torch.testing.assert_close(embedding(LABELS, torch.tensor([10, 10, 10])), without(LABELS))  # none starts at zero
    torch.nn.init.normal_(embedding.class_vectors.weight)
    classes = torch.tensor([0, 3, 10])
    linear = without.output(torch.nn.functional.silu(without.hidden(without.features(LABELS))))
    expected = torch.nn.functional.silu(linear + embedding.class_vectors.weight[classes])
    torch.testing.assert_close(embedding(LABELS, classes), expected)
    torch.testing.assert_close(embedding(LABELS)[2], expected[2])


def test_mistakes():
    with pytest.raises(UserError, match="built without classes"):
        NoiseEmbedding(PositionalFeatures(8), 16)(LABELS, torch.tensor([0, 1, 2]))
    with pytest.raises(UserError, match="at least 4 channels"):
        PositionalFeatures(3)
