"""The most and the least likely examples are shown as suits their kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from score_sde.common.plots import examples_pixels
from score_sde.data import Bins, Dataset
from score_sde.evaluation.likelihood.report import save_extremes
from tests.reading import image


@pytest.mark.parametrize("shape", [(2,), (1, 6, 8)])
def test_extremes(tmp_path, shape):
    examples = torch.randn(30, *shape, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    dataset = Dataset("numbers", examples, examples)
    save_extremes(tmp_path / "extremes.png", dataset, examples, order)
    if shape == (2,):
        least, rest, names = examples[order[-3:]].flip(0), examples, ("least likely tenth", "all examples")
    else:
        least, rest, names = examples[order[-10:]].flip(0), examples[order[:10]], ("least likely", "most likely")
    drawn = examples_pixels(dataset.kind, least.numpy(), rest.numpy(), names=names)
    np.testing.assert_array_equal(image(tmp_path / "extremes.png")[..., :3], drawn)


def test_extreme_images_lie_in_two_rows(tmp_path):
    images = torch.arange(12, dtype=torch.uint8).reshape(12, 1, 1, 1).expand(12, 1, 8, 8).contiguous()
    dataset = Dataset("images", images, images, Bins(16))
    save_extremes(tmp_path / "extremes.png", dataset, images, torch.arange(12))
    # Six times enlarged, with the first pixel of an image after a gap of one.
    pixels = image(tmp_path / "extremes.png")[6 :: 9 * 6, 6 :: 9 * 6][:2, :10]
    np.testing.assert_array_equal(pixels, 17 * np.array([range(10), range(11, 1, -1)]))
