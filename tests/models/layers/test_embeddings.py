"""Embeddings of noise labels and conditions against their formulas."""

import math
from typing import Any

import pytest
import torch

from score_sde.common.condition import Condition
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


def test_conditions_add_vectors_and_hidden_is_one_of_them():
    torch.manual_seed(0)
    embedding: Any = NoiseEmbedding(PositionalFeatures(8), 16, {"class": 10, "distorted": 1}).double()
    without = NoiseEmbedding(PositionalFeatures(8), 16).double()
    without.load_state_dict(embedding.state_dict(), strict=False)
    condition = Condition({"class": torch.tensor([0, 3, 7]), "distorted": torch.tensor([0, 0, 0])})
    # Both begin at zero: "hidden", and a name of a single value.
    torch.testing.assert_close(embedding(LABELS, condition.hidden("class")), without(LABELS))
    of_class, of_distortion = (embedding.condition.vectors[name] for name in ("class", "distorted"))
    for vectors in (of_class, of_distortion):
        torch.nn.init.normal_(vectors.weight)
    linear = without.output(torch.nn.functional.silu(without.hidden(without.features(LABELS))))

    def expected(numbers: list[int], distorted: list[int]) -> torch.Tensor:
        return torch.nn.functional.silu(linear + of_class.weight[numbers] + of_distortion.weight[distorted])

    torch.testing.assert_close(embedding(LABELS, condition), expected([0, 3, 7], [0, 0, 0]))
    partly = condition.hidden("class", torch.tensor([False, True, False])).hidden(
        "distorted", torch.tensor([False, True, True])
    )
    torch.testing.assert_close(embedding(LABELS, partly), expected([0, 10, 7], [0, 1, 1]))
    torch.testing.assert_close(embedding(LABELS), expected([10, 10, 10], [1, 1, 1]))
    only = Condition({"class": torch.tensor([0, 3, 7])})
    torch.testing.assert_close(embedding(LABELS, only), expected([0, 3, 7], [1, 1, 1]))


def test_mistakes():
    with pytest.raises(UserError, match="built without conditions"):
        NoiseEmbedding(PositionalFeatures(8), 16)(LABELS, Condition({"class": torch.tensor([0, 1, 2])}))
    with pytest.raises(UserError, match="at least 4 channels"):
        PositionalFeatures(3)
