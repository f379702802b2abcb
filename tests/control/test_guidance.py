"""Guidance on a mixture: exact where it is the score of a diffused density, refused a likelihood where it is not."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.control import ClassifierFreeGuidance, ClassifierGuidance
from score_sde.evaluation.samples.distances import classifier_two_sample_test
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver, log_likelihood
from tests.control.mixture import FLOAT, MIXTURE

VP = VPSDE()
COUNT = 3000

COMPONENT = 1


def log_responsibility(x: Tensor, t: Tensor) -> Tensor:
    joint = torch.stack([MIXTURE.component(VP, k).log_prob(x, t) + MIXTURE.weights[k].log() for k in range(3)], 1)
    return torch.log_softmax(joint, 1)[:, COMPONENT]


@pytest.mark.parametrize("solver", [("default", {"num_steps": 30}), ("dpmpp_2m_sde", {"num_steps": 100})])
def test_the_exact_classifier_gives_the_exact_conditional(solver, one_generator):
    """Moments, each coordinate's distribution, and a test by a classifier, against draws of the component."""
    name, options = solver
    model = ClassifierGuidance(MIXTURE.model(VP), log_responsibility)
    x_T = VP.prior_sample((COUNT, 2), seeds=range(COUNT), dtype=FLOAT)
    x = get_solver(name, **options)(model, x_T, seeds=range(COUNT)).x
    mean, covariance = MIXTURE.means[COMPONENT], MIXTURE.covariances[COMPONENT]
    std = covariance.diagonal().sqrt()
    assert float(((x.mean(0) - mean) / (std / math.sqrt(COUNT))).abs().max()) < 4
    # The variance of a Gaussian's variance is 2 / N of its square.
    assert float((x.var(0) / std**2 - 1).abs().max()) < 4 * math.sqrt(2 / COUNT)
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 4 / math.sqrt(COUNT)
    exact = MIXTURE.sample(COUNT, 5, COMPONENT)
    for axis in range(2):
        assert ks_2samp(x[:, axis].numpy(), exact[:, axis].numpy()).pvalue > 1e-3
    accuracy = classifier_two_sample_test(x.numpy(), exact.numpy())
    assert abs(accuracy.value - 0.5) < 4 * accuracy.standard_error


def test_its_likelihood_is_that_of_the_component():
    """`log p(x | y)` by the guided flow, which differentiates the classifier's gradient once more."""
    x, end = MIXTURE.sample(6, 7, COMPONENT), torch.tensor(VP.T)
    exact = MIXTURE.component(VP, COMPONENT)
    result = log_likelihood(
        ClassifierGuidance(MIXTURE.model(VP), log_responsibility),
        x,
        divergence="exact",
        prior=lambda x: exact.log_prob(x, end),
    )
    torch.testing.assert_close(
        result.log_prob, exact.log_prob(x, torch.tensor(VP.t_min, dtype=FLOAT)), rtol=0, atol=2e-5
    )


class Components:
    """The mixture as a model of its components."""

    sde = VP

    def score(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        return (MIXTURE.model(VP) if classes is None else MIXTURE.component(VP, int(classes[0]))).score(x, t)

    def denoise(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        return (MIXTURE.model(VP) if classes is None else MIXTURE.component(VP, int(classes[0]))).denoise(x, t)


def test_scales_and_intervals():
    """0 is unconditional, 1 conditional, and beyond goes on in a straight line; outside the interval the scale is 1."""
    x, classes = MIXTURE.sample(5, 8), torch.full((5,), 2)
    t = torch.linspace(0.2, 0.9, 5, dtype=FLOAT)
    plain, given = Components().score(x, t), Components().score(x, t, classes)

    def score(scale: float, *interval: tuple[float, float]) -> Tensor:
        return ClassifierFreeGuidance(Components(), classes, scale, *interval).score(x, t)

    assert torch.equal(score(0.0), plain)
    assert torch.equal(score(1.0), given)
    torch.testing.assert_close(score(3.0), plain + 3 * (given - plain), rtol=0, atol=1e-12)
    rho = VP.sigma(t) / VP.alpha(t)
    partly = score(3.0, (float(rho[1]), float(rho[3])))
    expected = torch.where(torch.tensor([False, True, True, True, False])[:, None], plain + 3 * (given - plain), given)
    torch.testing.assert_close(partly, expected, rtol=0, atol=1e-12)
    with pytest.raises(UserError, match="begins below its end"):
        score(3.0, (2.0, 1.0))


def test_likelihoods_are_refused_where_the_score_is_of_no_diffused_density():
    x, classes = MIXTURE.sample(2, 9), torch.full((2,), 2)
    model = MIXTURE.model(VP)
    for guided in (
        ClassifierGuidance(model, log_responsibility, 2.0),
        ClassifierFreeGuidance(Components(), classes, 2.0),
        ClassifierFreeGuidance(Components(), classes, 0.0, (0.1, 2.0)),
        ClassifierGuidance(ClassifierFreeGuidance(Components(), classes, 2.0), log_responsibility),
    ):
        with pytest.raises(UserError, match="no log-likelihood: guidance of scale"):
            log_likelihood(guided, x)
    exact = log_likelihood(model, x, divergence="exact").log_prob
    for scale_0 in (
        ClassifierGuidance(model, log_responsibility, 0.0),
        ClassifierFreeGuidance(Components(), classes, 0.0),
    ):
        torch.testing.assert_close(log_likelihood(scale_0, x, divergence="exact").log_prob, exact)
