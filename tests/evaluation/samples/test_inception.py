"""FID, KID and IS with a small network in Inception's place, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.evaluation.samples.inception import Extractors, inception, measure_images


class Linear(nn.Module):
    """Features of images by a fixed matrix; counts its images."""

    num_features = 5

    def __init__(self, scale: float, pixels: int = 48) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(scale * torch.randn(pixels, 5, generator=generator))
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        self.seen += len(x)
        return x.flatten(1).float() / 255 @ self.matrix


def images(count: int, brightest: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(brightest, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)


@pytest.fixture
def extractors() -> Extractors:
    return Extractors(Linear(1.0).requires_grad_(False), Linear(3.0).requires_grad_(False))


def features(network: Linear, x: Tensor) -> np.ndarray:
    return network(x.expand(-1, 3, -1, -1)).double().numpy()


def test_frechet_distance(extractors, tmp_path):
    real, samples = images(400, 256, 0), images(300, 180, 1)
    statistics = tmp_path / "statistics.safetensors"
    found = measure_images(["fid"], samples, real, extractors, statistics)["fid"]
    f, g = (features(extractors.features, x) for x in (real, samples))
    a, b = np.cov(f.T), np.cov(g.T)
    expected = ((f.mean(0) - g.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert found == pytest.approx(expected, rel=1e-4)
    # The second time the statistics are at hand: real images are not looked at again.
    extractors.features.seen = 0
    assert measure_images(["fid"], samples, real, extractors, statistics)["fid"] == pytest.approx(found, rel=1e-6)
    assert extractors.features.seen == len(samples)
    statistics.write_bytes(statistics.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cannot read the statistics .*; remove it"):
        measure_images(["fid"], samples, real, extractors, statistics)


def test_kernel_distance(extractors):
    """Of all samples, in one subset or many: the unbiased estimate with the kernel (x y / d + 1)^3."""
    real, samples = images(200, 256, 2), images(200, 200, 3)
    found = measure_images(["kid"], samples, real, extractors)["kid"]
    f, g = (features(extractors.features, x) for x in (real, samples))

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / 5 + 1) ** 3

    within = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (200 * 199) for x in (f, g))
    assert found == pytest.approx(within - 2 * kernel(f, g).mean(), rel=1e-3)


def test_inception_score(extractors):
    samples = images(40, 256, 4)
    found = measure_images(["is"], samples, samples, extractors)["is"]
    logits = torch.from_numpy(features(extractors.logits, samples))
    probabilities = logits.softmax(1)
    marginal = probabilities.mean(0, keepdim=True)
    expected = torch.exp((probabilities * (probabilities / marginal).log()).sum(1).mean())
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_mistakes_are_explained(extractors, tmp_path):
    with pytest.raises(UserError, match="did you mean 'fid'"):
        measure_images(["fidd"], images(4, 9, 0), images(4, 9, 0), extractors)
    with pytest.raises(UserError, match="too few"):
        measure_images(["fid"], images(1, 9, 0), images(4, 9, 0), extractors)
    with pytest.raises(UserError, match=r"there is no .*weights.pth"):
        inception(tmp_path / "weights.pth", "cpu")
