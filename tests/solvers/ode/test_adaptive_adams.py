"""Adams with steps of each example's own: errors, promises about them, the data's Gaussian, and company."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE, SubVPSDE
from score_sde.solvers import log_likelihood
from score_sde.solvers.ode.adaptive_adams import integrate_adaptive_adams
from score_sde.solvers.ode.integrator import Integrator
from score_sde.solvers.ode.runge_kutta import StepFailureError

FLOAT = torch.float64
SDES = [VPSDE(), VPSDE(t_min=1e-5), SubVPSDE(), VESDE()]
NAMES = ["vp", "vp from 1e-5", "subvp", "ve"]


def forced(s, y):
    """`y' = y cos(s + a)`, `y = exp(sin(s + a))` for two phases `a`."""
    return y * torch.cos(s[:, None] + torch.tensor([0.0, 1.0], dtype=FLOAT))


def remembering(places):
    """The same, which remembers where it was asked."""

    def field(s, y):
        places.append(s)
        return forced(s, y)

    return field


def exact(s):
    return torch.exp(torch.sin(torch.tensor([[s, s + 1.0]], dtype=FLOAT)))


@pytest.mark.parametrize("max_order", [2, 4])
@pytest.mark.parametrize(("start", "end"), [(0.0, 5.0), (5.0, 0.0)])
def test_errors_follow_the_tolerance_and_steps_the_order(start, end, max_order):
    """The error of a step goes as `h^(k + 1)`; for a hundredth of the tolerance it may be a hundredth, times a share
    that is `100^(1/8)` times smaller."""
    calls = []
    for tolerance in (1e-3, 1e-5):
        places: list[torch.Tensor] = []
        settings = {"rtol": tolerance, "atol": tolerance, "max_order": max_order}
        y = integrate_adaptive_adams(remembering(places), exact(start), start, end, **settings)
        # The tolerance is absolute and relative; numbers are between exp(-1) and exp(1).
        assert float((y - exact(end)).abs().max()) < 3 * tolerance * (1 + math.e)
        assert all(0 <= float(s) <= 5 for s in places)
        calls.append(len(places))
    assert calls[1] / calls[0] == pytest.approx(100 ** (9 / 8 / (max_order + 1)), rel=0.25)


class Problem:
    """Four Gaussians in a few dimensions, deviations along their axes between 0.05 and 0.7, and samples at t_min."""

    def __init__(self, sde, dimension: int, count: int) -> None:
        generator = torch.Generator().manual_seed(dimension)
        weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=FLOAT)
        means = 0.7 * torch.randn(4, dimension, generator=generator, dtype=FLOAT)
        axes = torch.linalg.qr(torch.randn(4, dimension, dimension, generator=generator, dtype=FLOAT))[0]
        roots = axes * (0.05 * 14 ** torch.rand(4, 1, dimension, generator=generator, dtype=FLOAT))
        self.model = GaussianMixture(sde, weights, means, roots @ roots.mT)
        component = torch.multinomial(weights, count, replacement=True, generator=generator)
        normal = torch.randn(2, count, dimension, generator=generator, dtype=FLOAT)
        x_0 = means[component] + (roots[component] @ normal[0, :, :, None])[..., 0]
        t_min = torch.tensor(sde.t_min, dtype=FLOAT)
        self.x = sde.perturb(x_0, normal[1], t_min)
        self.truth = self.model.log_prob(self.x, t_min)

    def density_at_end(self, x):
        return self.model.log_prob(x, torch.tensor(self.model.sde.T, dtype=FLOAT))

    def solve(self, model=None, x=None, **options):
        options = {"divergence": "exact", "prior": self.density_at_end, **options}
        return log_likelihood(self.model if model is None else model, self.x if x is None else x, **options)


class WithoutGaussian:
    """The model does not know what its data look like."""

    def __init__(self, model) -> None:
        self.sde, self.score, self.denoise = model.sde, model.score, model.denoise


@pytest.mark.parametrize("known", [True, False], ids=["gaussian", "no gaussian"])
@pytest.mark.parametrize("sde", SDES, ids=NAMES)
@pytest.mark.parametrize("dimension", [4])
def test_the_error_at_the_end_is_within_three_tolerances(dimension, sde, known):
    """Of 95 of 100 examples; and the calls are fewer than those of Dormand and Prince."""
    problem = Problem(sde, dimension, 100)
    model = problem.model if known else WithoutGaussian(problem.model)
    for tolerance in (1e-2, 1e-3):
        result = problem.solve(model, rtol=tolerance, atol=tolerance)
        error = (result.log_prob - problem.truth).abs() / dimension
        assert float((error < 3 * tolerance).double().mean()) >= 0.95
    assert result.nfe < 45


def test_data_that_are_a_gaussian_take_the_fewest_calls():
    """Nothing is left to follow but rounding: steps grow as fast as they may, at any tolerance."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=FLOAT)
    model = GaussianMixture(VPSDE(), torch.ones(1), torch.linspace(-1, 1, 5, dtype=FLOAT)[None], (root @ root.mT)[None])
    t_min, T = torch.tensor(model.sde.t_min, dtype=FLOAT), torch.tensor(model.sde.T, dtype=FLOAT)
    x = torch.randn(3, 5, generator=generator, dtype=FLOAT)
    result = log_likelihood(model, x, divergence="exact", prior=lambda x: model.log_prob(x, T), rtol=1e-9, atol=1e-9)
    assert torch.allclose(result.log_prob, model.log_prob(x, t_min), rtol=1e-10)
    assert result.nfe < 18


@pytest.mark.parametrize("options", [{"num_probes": 2}, {"probe": "gaussian"}])
def test_the_gaussian_leaves_the_estimate_as_it_is(options):
    """Hutchinson's noise is that of the same probes in plain coordinates, by another method."""
    problem = Problem(SubVPSDE(), 4, 5)
    settings = {"divergence": "hutchinson", "seeds": range(5), "rtol": 1e-7, "atol": 1e-7, **options}
    found, expected = problem.solve(**settings), problem.solve(method="dopri5", **settings)
    assert torch.allclose(found.by_probe, expected.by_probe, atol=4e-5)
    assert (found.log_prob - problem.truth).abs().min() > 1e-3


def test_an_example_does_not_depend_on_its_batch_mates():
    problem = Problem(VPSDE(), 4, 12)
    settings = {"divergence": "hutchinson", "rtol": 1e-3, "atol": 1e-3}
    together = problem.solve(seeds=range(12), **settings)
    alone = [problem.solve(x=problem.x[i : i + 1], seeds=[i], **settings) for i in range(12)]
    assert torch.allclose(together.log_prob, torch.cat([one.log_prob for one in alone]), rtol=1e-10)
    assert torch.allclose(together.latents, torch.cat([one.latents for one in alone]), rtol=1e-9, atol=1e-10)
    assert together.nfe == max(one.nfe for one in alone) > min(one.nfe for one in alone)


def test_failures_and_mistakes_are_explained():
    y = torch.tensor([[0.1], [2.0]], dtype=FLOAT)
    with pytest.raises(StepFailureError, match=r"step size vanished|not finite|not enough") as caught:
        integrate_adaptive_adams(lambda s, y: y**2, y, 0.0, 1.0, rtol=1e-6, atol=1e-6, max_num_steps=1000)
    assert caught.value.example == 1
    assert caught.value.s == pytest.approx(0.5, abs=1e-2)
    with pytest.raises(UserError, match=r"has no option 'order' .*max_order"):
        Integrator("adaptive_adams", options={"order": 3})
    with pytest.raises(UserError, match="has steps for each example"):
        Integrator("adaptive_adams", per_example=False)


def test_a_gaussian_of_vectors_serves_them_in_another_shape():
    problem = Problem(VPSDE(), 4, 3)
    settings = {"rtol": 1e-3, "atol": 1e-3}
    flat, squares = problem.solve(**settings), problem.solve(x=problem.x.reshape(3, 1, 2, 2), **settings)
    assert torch.allclose(flat.log_prob, squares.log_prob, rtol=1e-12)
    assert squares.latents.shape == (3, 1, 2, 2)
