"""Series, fields and volumes that are at hand: number by number, and no number in both parts."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib import cbook

from score_sde.data import load_dataset
from score_sde.data.sources.matplotlib_samples import CHANNELS, STEPS_A_SECOND, load_elevation
from score_sde.data.sources.toy_volumes import EDGE, ellipsoids, load_toy_volumes


def sample(name: str) -> Path:
    return Path(cbook.get_sample_data(name, asfileobj=False))


def test_the_files_are_those_of_every_matplotlib():
    """From 3.10 on, at least; other numbers would be other data."""
    digests = {"eeg.dat": "28656316df0004ac", "jacksboro_fault_dem.npz": "d493f50a33e82a44"}
    for name, digest in digests.items():
        assert hashlib.sha256(sample(name).read_bytes()).hexdigest()[:16] == digest


def test_windows_of_the_electroencephalogram():
    dataset = load_dataset("eeg")
    signal = np.fromfile(sample("eeg.dat")).reshape(800, 4)
    assert len(signal) / STEPS_A_SECOND == 10
    assert (dataset.kind, dataset.shape, dataset.train.dtype) == ("series", (len(CHANNELS), 64), torch.float64)
    np.testing.assert_array_equal(dataset.train, np.stack([signal[k : k + 64].T for k in range(600 - 64 + 1)]))
    np.testing.assert_array_equal(dataset.test, np.stack([signal[k : k + 64].T for k in range(600, 737, 8)]))
    assert not np.isin(dataset.test, dataset.train).any()
    encoded = dataset.encode(dataset.train, 0)
    torch.testing.assert_close(encoded.double().mean((0, 2)), torch.zeros(4).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(encoded.double().std((0, 2), correction=0), torch.ones(4).double(), rtol=0, atol=1e-7)


def test_patches_of_the_elevations():
    dataset = load_dataset("elevation")
    with np.load(sample("jacksboro_fault_dem.npz")) as content:
        metres = content["elevation"]
    corners = [(top, left) for top in range(0, 344 - 31, 4) for left in range(0, 302 - 31, 4)]
    of_test = [(top, left) for top in range(0, 344 - 31, 16) for left in range(302, 403 - 31, 16)]
    for part, places in ((dataset.train, corners), (dataset.test, of_test)):
        assert part.shape == (len(places), 1, 32, 32)
        patches = np.stack([metres[top : top + 32, left : left + 32] for top, left in places])
        np.testing.assert_array_equal((part[:, 0].double() + 0.5).floor(), patches)
    # What is added is the same in all patches of a place, uniform, and another for another seed.
    assert torch.equal(dataset.train[0, 0, :, 4:], dataset.train[1, 0, :, :-4])
    rest = (dataset.train.double() + 0.5) % 1
    assert abs(rest.mean().item() - 0.5) < 0.01
    assert abs(rest.std().item() - math.sqrt(1 / 12)) < 0.005
    assert not torch.equal(load_elevation(1).test, dataset.test)
    assert (dataset.kind, dataset.train.dtype) == ("fields", torch.float32)


def test_toy_volumes_are_ellipsoids():
    """1/2 on the surface, of the volume of an ellipsoid; noise of the deviation it says."""
    centre, axes = torch.tensor([[0.0625, -0.1875, 0.3125]]).double(), torch.tensor([[0.5, 0.25, 0.375]]).double()
    [[volume]] = ellipsoids(centre, axes)
    # The grid's points are at odd multiples of 1/16: 8 is at 1/16.
    assert abs(volume[8, 6, 10].item() - 1 / (1 + math.exp(-1 / EDGE))) < 1e-15
    assert volume[12, 6, 10].item() == volume[8, 8, 10].item() == volume[8, 6, 13].item() == 0.5
    assert volume[15, 6, 10] < 0.01
    [[fine]] = ellipsoids(torch.zeros(1, 3).double(), axes, side=64)
    inside = (fine > 0.5).double().mean().item() * 8
    assert abs(inside / (4 / 3 * math.pi * axes.prod().item()) - 1) < 0.01
    parts = load_dataset("toy_volumes")
    assert (parts.train.shape, parts.test.shape) == ((2000, 1, 16, 16, 16), (200, 1, 16, 16, 16))
    # Corners are far from every ellipsoid: of squared distance at least 3 (0.6 / 0.7)^2 of the half axes.
    corners = parts.train[:, 0, 0, 0, 0]
    assert abs(corners.mean().item()) < 0.005
    assert abs(corners.std().item() - 0.05) < 0.003
    assert parts.kind == "volumes"
    other = load_toy_volumes(1)
    assert not torch.equal(other.test, parts.test)
    assert not torch.equal(other.test, parts.train[:200])
