"""Patches are pieces of the photographs, and none of those to test on overlaps one to train on."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from score_sde.data.sources.photos import load_photos


def test_patches_of_photographs():
    parts = load_photos()
    assert parts.train.shape == (4600, 3, 32, 32)
    assert parts.test.shape == (72, 3, 32, 32)
    assert parts.classes is not None
    assert parts.test_classes is not None
    assert parts.classes.bincount().tolist() == [2300, 2300]
    photos = load_sample_images().images
    halved = [Image.fromarray(photo).resize((320, 213), Image.Resampling.LANCZOS) for photo in photos]
    for k, whole in enumerate(torch.from_numpy(np.array(photo)).movedim(2, 0) for photo in halved):
        train, test = parts.train[parts.classes == k], parts.test[parts.test_classes == k]
        # From the left 160 columns, 33 patches in a row; then from the right 96, 17 in a row.
        assert torch.equal(train[0], whole[:, :32, :32])
        assert torch.equal(train[34], whole[:, 4:36, 4:36])
        assert torch.equal(train[46 * 33], whole[:, :32, 224:256])
        assert torch.equal(train[-1], whole[:, 180:212, 288:320])
        # To test on, the columns from 160 to 224.
        assert torch.equal(test[0], whole[:, :32, 160:192])
        assert torch.equal(test[-1], whole[:, 176:208, 192:224])
