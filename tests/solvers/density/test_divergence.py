"""Divergences against closed forms: exact, and Hutchinson's mean and variance."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.noise import SampleNoise
from score_sde.solvers.density.divergence import exact_divergence, hutch_plus_plus_divergence, hutchinson_divergence

FLOAT = torch.float64


def test_exact_divergence_in_one_call():
    """`F(z) = A z + sin(|z|^2) z` in 100 dimensions, more than are followed at once."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(100, 100, generator=generator, dtype=FLOAT)
    z = 0.1 * torch.randn(3, 100, generator=generator, dtype=FLOAT)
    calls = 0

    def field(z):
        nonlocal calls
        calls += 1
        return z @ matrix.T + torch.sin(z.square().sum(1, keepdim=True)) * z

    square = z.square().sum(1)
    value, divergence = exact_divergence(field, z)
    assert calls == 1
    assert torch.allclose(value, field(z), rtol=1e-14, atol=1e-14)
    expected = matrix.trace() + 100 * torch.sin(square) + 2 * square * torch.cos(square)
    assert torch.allclose(divergence[:, 0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("probe", ["rademacher", "normal"])
def test_hutchinson_is_unbiased_and_its_variance_falls_as_one_over_probes(probe):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, generator=generator, dtype=FLOAT)
    symmetric = (matrix + matrix.T) / 2
    frobenius = symmetric.square().sum()
    variance = 2 * (frobenius - symmetric.diagonal().square().sum() if probe == "rademacher" else frobenius)
    count, z = 4000, torch.ones(4000, 6, dtype=FLOAT)
    noise = SampleNoise(range(count), stream="probe")
    for num_probes in (1, 4, 16):
        probes = torch.stack([getattr(noise, probe)(z) for _ in range(num_probes)])
        value, estimates = hutchinson_divergence(probes)(lambda z: z @ matrix.T, z)
        assert torch.allclose(value, z @ matrix.T)
        assert estimates.shape == (count, num_probes)
        estimates = estimates.mean(1)
        error = (variance / num_probes / count).sqrt()
        assert abs(estimates.mean() - matrix.trace()) < 4 * error
        # Of 4000 numbers the variance is known to 2.2% (normal) or 3.5% (one chi-squared).
        assert estimates.var() * num_probes / variance == pytest.approx(1, abs=0.14)


def test_hutch_plus_plus_is_unbiased_and_pays_where_few_directions_matter():
    """Two large directions in 30 dimensions, and noise: 12 products each."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(2, 30, generator=generator, dtype=FLOAT)
    matrix = large.T @ large + 0.1 * torch.randn(30, 30, generator=generator, dtype=FLOAT)
    count, z = 4000, torch.ones(4000, 30, dtype=FLOAT)
    noise = SampleNoise(range(count), stream="probe")
    vectors = torch.stack([noise.rademacher(z) for _ in range(12)])
    value, estimates = hutch_plus_plus_divergence(vectors[:4], vectors[4:8])(lambda z: z @ matrix.T, z)
    assert torch.allclose(value, z @ matrix.T)
    assert abs(estimates.mean() - matrix.trace()) < 4 * estimates.std() / count**0.5
    plain = hutchinson_divergence(vectors)(lambda z: z @ matrix.T, z)[1].mean(1)
    assert estimates.var() < plain.var() / 20


def test_hutch_plus_plus_with_a_sketch_of_all_directions_is_exact():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 5, generator=generator, dtype=FLOAT)
    sketch, probes = torch.randn(2, 5, 3, 5, generator=generator, dtype=FLOAT)
    z = torch.zeros(3, 5, dtype=FLOAT)
    divergence = hutch_plus_plus_divergence(sketch, probes)(lambda z: z @ matrix.T, z)[1]
    assert torch.allclose(divergence, matrix.trace().expand(3, 1), rtol=1e-12)
