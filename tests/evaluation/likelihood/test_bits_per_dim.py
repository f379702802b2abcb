"""Bits per dimension and their errors, from numbers whose deviations are known."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.data import Bins
from score_sde.evaluation.likelihood.bits_per_dim import Likelihoods, describe, summarise
from score_sde.evaluation.likelihood.dequantisation import UniformDequantiser
from score_sde.evaluation.likelihood.measurement import Checked, Measurement
from score_sde.models import GaussianMixture
from score_sde.sde import VPSDE

FLOAT = torch.float64
# Of images, of draws and of probes, in bits/dim.
DEVIATIONS = (0.3, 0.2, 0.1)
DIMENSION = 4


def made(count: int) -> tuple[Likelihoods, Checked]:
    """Examples whose bits/dim are 2, plus a number of the image, one of the draw and one of the probe."""
    generator = torch.Generator().manual_seed(0)
    image, draws, probes = (
        deviation * torch.randn(count, 3, generator=generator, dtype=FLOAT) for deviation in DEVIATIONS
    )
    nats = DIMENSION * math.log(2)
    bits = [2 + image[:, 0] + draws[:, draw] + probes[:, probe] for draw, probe in ((0, 0), (0, 1), (1, 2))]
    log_prob = -nats * bits[0][:, None]
    likelihoods = Likelihoods(
        log_prob + 1, torch.ones_like(log_prob), {}, torch.zeros(count, DIMENSION), nfe=7.0, seconds=1.0
    )
    tight = bits[0] - 0.01
    return likelihoods, Checked(*(-nats * value for value in (bits[0], tight, *bits[1:])))


def test_deviations_come_back_by_source():
    count = 20_000
    likelihoods, checked = made(count)
    summary = summarise(likelihoods, checked, exact=False)
    assert list(summary["standard_deviations"].values()) == pytest.approx(DEVIATIONS, rel=0.03)
    assert summary["bits_per_dim"] == pytest.approx(2, abs=0.02)
    assert summary["standard_error"] == pytest.approx(math.hypot(*DEVIATIONS) / math.sqrt(count), rel=0.02)
    assert summary["solver_error"]["mean"] == pytest.approx(0.01, rel=1e-6)
    assert summary["solver_error"]["mean_absolute"] == pytest.approx(0.01, rel=1e-6)
    assert summary["solver_error"]["num_examples"] == count


def test_numbers_without_levels_are_told_in_nats():
    """They have no noise, so that differences between draws are those between probes."""
    likelihoods, checked = made(1000)
    bounds = {"continuous": -likelihoods.log_prob * torch.tensor([0.5, 0.25, 0.25], dtype=FLOAT)}
    summary = summarise(likelihoods._replace(bounds=bounds), checked, exact=False, noisy=False)
    assert list(summary["standard_deviations"]) == ["examples", "probes"]
    nats, error = (summary[name] * math.log(2) for name in ("bits_per_dim", "standard_error"))
    lines = describe({**summary, "split": "test", "levels": None})
    bits = f"{summary['bits_per_dim']:.4f} ± {summary['standard_error']:.4f} bits/dim"
    assert lines[0].startswith(f"{nats:.4f} ± {error:.4f} nats/dim in data units ({bits}) of 1000 test examples; ")
    in_nats = {name: value * math.log(2) for name, value in summary["bounds"]["continuous"].items()}
    assert lines[1].endswith(f": continuous {in_nats['bits_per_dim']:.4f} ± {in_nats['standard_error']:.4f}")
    assert f"; the solver's own error is {0.01 * math.log(2):+.4f}" in lines[2]
    assert "draws" not in lines[2]


def test_draws_are_averaged_inside_the_logarithm_where_that_is_a_bound():
    log_prob = torch.tensor([[-1.0, -3.0], [-2.0, -2.5]], dtype=FLOAT)
    bounds = {"continuous": torch.tensor([[0.0, 2.0, 1.0], [0.5, 2.0, 1.0]], dtype=FLOAT)}
    likelihoods = Likelihoods(log_prob, torch.zeros_like(log_prob), bounds, torch.zeros(2, DIMENSION), 1.0, 1.0)
    nats = DIMENSION * math.log(2)
    exact = summarise(likelihoods, None, exact=True)
    assert exact["bits_per_dim"] == pytest.approx(2.125 / nats)
    inside = [math.log((math.exp(a) + math.exp(b)) / 2) for a, b in log_prob.tolist()]
    assert exact["importance_weighted"]["bits_per_dim"] == pytest.approx(-sum(inside) / 2 / nats)
    assert "importance_weighted" not in summarise(likelihoods, None, exact=False)
    bound = exact["bounds"]["continuous"]
    assert bound["bits_per_dim"] == pytest.approx(3.25 / nats)
    assert [bound[term] for term in ("prior", "diffusion", "reconstruction")] == pytest.approx(
        [0.25 / nats, 2 / nats, 1 / nats]
    )
    lines = describe({**exact, "split": "test", "num_draws": 2, "levels": 8})
    assert lines[0].startswith(f"{2.125 / nats:.4f} ± ")
    assert lines[1].endswith("with 2 draws importance-weighted")
    assert f"continuous {3.25 / nats:.4f}" in lines[2]


def test_examples_measured_again_differ_in_one_thing():
    """A mixture with a divergence that is not constant; levels in the plane."""
    means, covariances = torch.tensor([[0.5, 0.0], [-0.5, 0.0]]), 0.02 * torch.eye(2).expand(2, 2, 2)
    model = GaussianMixture(VPSDE(), torch.ones(2), means, covariances)
    options = {"rtol": 1e-3, "atol": 1e-3, "probe": "gaussian"}
    measurement = Measurement(model, UniformDequantiser(Bins(8)), options, num_draws=2)
    levels, seeds = torch.tensor([[5, 4], [2, 3], [6, 4]], dtype=torch.uint8), [3, 4, 5]
    measured = measurement(levels, seeds)
    log_weights = measured.log_prob - measured.log_q
    checked = measurement.check(levels, seeds, log_weights[:, 0])
    assert torch.equal(checked.first, log_weights[:, 0])
    # Solved tightly: the same but for the solver's error.
    difference = (checked.tight - checked.first).abs()
    assert 1e-6 < float(difference.max()) < 0.02
    # Other probes, other noise: unlike.
    assert float((checked.other_probes - checked.first).abs().min()) > 0.03
    assert float((checked.other_draw - log_weights[:, 1]).abs().min()) > 1e-3
    exact = Measurement(model, UniformDequantiser(Bins(8)), {"divergence": "exact"}, num_draws=2)
    again = exact.check(levels, seeds, exact(levels, seeds).log_prob[:, 0])
    torch.testing.assert_close(again.other_probes, again.tight, atol=0.02, rtol=0)
    assert torch.equal(measurement(levels[1:2], [4]).log_q, measured.log_q[1:2])
