"""The Gaussian that data look like: moments, axes, and what comes back from a description."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from score_sde.common.gaussian import Gaussian, described, fit_gaussian, gaussian_of, isotropic

DOUBLE = torch.float64


def covariance(gaussian: Gaussian) -> Tensor:
    """Return the covariance `(d, d)`, from the images of unit vectors."""
    count = gaussian.mean.numel()
    units = torch.eye(count, dtype=DOUBLE).reshape(count, *gaussian.mean.shape)
    spread = gaussian.rotate(units) * gaussian.scales[gaussian.which]
    return spread.flatten(1) @ spread.flatten(1).T


def test_whole_moments_of_few_numbers() -> None:
    mixing = torch.randn(6, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    x = torch.randn(500, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) @ mixing + 3
    gaussian = fit_gaussian(x.reshape(500, 2, 3))
    assert gaussian is not None
    torch.testing.assert_close(gaussian.mean, x.mean(0).reshape(2, 3), rtol=1e-6, atol=1e-6)
    centred = x - x.mean(0)
    torch.testing.assert_close(covariance(gaussian), centred.T @ centred / 500, rtol=1e-5, atol=1e-5)


def test_a_product_of_axes_has_its_moments_whole() -> None:
    """Of data whose covariance is a product over the axes, those of many numbers have it, too, to a few per cent of
    each standard deviation."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randn(n, n, dtype=DOUBLE, generator=generator) / n**0.5 for n in (12, 14))
    x = rows.T @ torch.randn(20000, 12, 14, dtype=DOUBLE, generator=generator) @ columns
    gaussian = fit_gaussian(x)
    assert gaussian is not None
    assert len(gaussian.scales) == 64
    expected = torch.kron(rows.T @ rows, columns.T @ columns)
    assert (covariance(gaussian) - expected).norm() < 0.05 * expected.norm()


def test_turning_there_and_back() -> None:
    for shape in ((5,), (3, 4), (3, 16, 16), (2, 6, 7, 5), (1500,), (2, 1100)):
        x = torch.randn(40, *shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        gaussian = fit_gaussian(x)
        assert gaussian is not None
        u = gaussian.rotate(x)
        torch.testing.assert_close(gaussian.rotate_back(u), x, rtol=0, atol=1e-5)
        torch.testing.assert_close(u.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 16, 16)])
def test_descriptions(shape: tuple[int, ...]) -> None:
    gaussian = fit_gaussian(torch.randn(40, *shape, generator=torch.Generator().manual_seed(0)))
    assert gaussian is not None
    again = described(json.loads(json.dumps(gaussian.describe())))
    assert len(again.bases) == len(gaussian.bases)
    pairs = zip((*gaussian[:3], *gaussian.bases), (*again[:3], *again.bases), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    exact = gaussian_of(torch.rand(4, dtype=DOUBLE), torch.diag(torch.rand(4, dtype=DOUBLE)))
    for a, b in pairwise([exact, described(exact.describe(exactly=True))]):
        assert torch.equal(a.mean, b.mean)
        assert torch.equal(a.scales, b.scales)


def test_data_that_do_not_vary_have_none() -> None:
    assert fit_gaussian(torch.ones(5, 3)) is None
    assert fit_gaussian(torch.randn(1, 3)) is None
    assert float(isotropic(0.7).scales) == 0.7
