"""Guidance on a mixture: exact where it is the score of a diffused density, refused a likelihood where it is not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.control import ClassifierGuidance, Guided
from score_sde.evaluation.samples.distances import classifier_two_sample_test
from score_sde.models import GaussianMixture, Given, rows_of
from score_sde.models.analytic_variance import KnownVariance
from score_sde.models.given import GivenBeside
from score_sde.models.noisy_classifier import ClassProbability
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

    def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        return self._part(condition).score(x, t)

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        return self._part(condition).denoise(x, t)

    def _part(self, condition: Condition | None) -> GaussianMixture:
        return MIXTURE.model(VP) if condition is None else MIXTURE.component(VP, int(condition.values["class"][0]))


def classifier_free(count: int, scale: float, interval: tuple[float, float] = (0.0, math.inf)) -> Guided:
    given = Given(Components(), Condition({"class": torch.full((count,), 2)}))
    return Guided(given, Components(), scale, interval)


def test_scales_and_intervals():
    """0 is unconditional, 1 conditional, and beyond goes on in a straight line; outside the interval the scale is 1."""
    x, t = MIXTURE.sample(5, 8), torch.linspace(0.2, 0.9, 5, dtype=FLOAT)
    plain, given = MIXTURE.model(VP).score(x, t), MIXTURE.component(VP, 2).score(x, t)
    assert torch.equal(classifier_free(5, 0.0).score(x, t), plain)
    assert torch.equal(classifier_free(5, 1.0).score(x, t), given)
    torch.testing.assert_close(classifier_free(5, 3.0).score(x, t), plain + 3 * (given - plain), rtol=0, atol=1e-12)
    rho = VP.sigma(t) / VP.alpha(t)
    partly = classifier_free(5, 3.0, (float(rho[1]), float(rho[3]))).score(x, t)
    expected = torch.where(torch.tensor([False, True, True, True, False])[:, None], plain + 3 * (given - plain), given)
    torch.testing.assert_close(partly, expected, rtol=0, atol=1e-12)
    with pytest.raises(UserError, match="begins below its end"):
        classifier_free(5, 3.0, (2.0, 1.0))


def test_any_two_models_guide_each_other():
    """Of `N(m, C)` and `N(m', C')` the guided score is linear in `x`, and so is the denoised mean, by Tweedie."""
    wanted, unwanted = MIXTURE.component(VP, 0), MIXTURE.component(VP, 1)
    x, t, scale = MIXTURE.sample(6, 3), torch.tensor(0.4, dtype=FLOAT), 2.5
    alpha, sigma = VP.alpha(t), VP.sigma(t)

    def by_hand(k: int) -> Tensor:
        precision = torch.linalg.inv(alpha**2 * MIXTURE.covariances[k] + sigma**2 * torch.eye(2, dtype=FLOAT))
        return -(x - alpha * MIXTURE.means[k]) @ precision

    expected = by_hand(1) + scale * (by_hand(0) - by_hand(1))
    guided = Guided(wanted, unwanted, scale)
    torch.testing.assert_close(guided.score(x, t), expected)
    torch.testing.assert_close(guided.denoise(x, t), (x + sigma**2 * expected) / alpha)


def test_auto_guidance_is_its_formula():
    """`s + (w - 1) (s - s')`, each by Bayes' rule over its components; the worse model is broader and off its place."""
    worse_means, worse_covariances = MIXTURE.means + 0.3, MIXTURE.covariances + 0.5 * torch.eye(2, dtype=FLOAT)
    worse = GaussianMixture(VP, MIXTURE.weights, worse_means, worse_covariances)
    x, scale = MIXTURE.sample(6, 3), 2.5

    def by_hand(means: Tensor, covariances: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        log_joint, scores = [], []
        for weight, mean, covariance in zip(MIXTURE.weights, means, covariances, strict=True):
            total = alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=FLOAT)
            scores.append(-(x - alpha * mean) @ torch.linalg.inv(total))
            log_joint.append(weight.log() + 0.5 * ((x - alpha * mean) * scores[-1]).sum(1) - 0.5 * torch.logdet(total))
        return torch.einsum("kb,kbi->bi", torch.softmax(torch.stack(log_joint), 0), torch.stack(scores))

    guided = Guided(MIXTURE.model(VP), worse, scale)
    for t in torch.tensor([0.3, 0.6, 1.0], dtype=FLOAT):
        own = by_hand(MIXTURE.means, MIXTURE.covariances, t)
        expected = own + (scale - 1) * (own - by_hand(worse_means, worse_covariances, t))
        torch.testing.assert_close(guided.score(x, t), expected, rtol=0, atol=1e-12)
        mean = (x + VP.sigma(t) ** 2 * expected) / VP.alpha(t)
        torch.testing.assert_close(guided.denoise(x, t), mean, rtol=0, atol=1e-11 / float(VP.alpha(t)))


def test_remedies_of_large_scales():
    """Of each example: APG's difference is short and turned away from the mean; rescaled keeps the deviation."""
    model, worse = MIXTURE.model(VP), MIXTURE.component(VP, 1)
    x, t, scale = MIXTURE.sample(6, 3), torch.tensor(0.4, dtype=FLOAT), 4.0
    mean, other = model.denoise(x, t), worse.denoise(x, t)
    for row in range(6):
        d, delta = mean[row].numpy(), (mean - other)[row].numpy()
        short = delta * min(1, 0.7 / np.linalg.norm(delta))
        along = (short @ d) / (d @ d) * d
        expected = d + (scale - 1) * (short - along + 0.25 * along)
        found = Guided(model, worse, scale, parallel=0.25, largest=0.7).denoise(x[row : row + 1], t)[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        guided = d + (scale - 1) * delta
        expected = guided * (0.3 + 0.7 * d.std() / guided.std())
        rescaled = Guided(model, worse, scale, rescale=0.7)
        np.testing.assert_allclose(rescaled.denoise(x, t)[row].numpy(), expected, rtol=0, atol=1e-12)
        score = (float(VP.alpha(t)) * expected - x[row].numpy()) / float(VP.sigma(t)) ** 2
        np.testing.assert_allclose(rescaled.score(x, t)[row].numpy(), score, rtol=0, atol=1e-11)
    # Where nothing is guided they do nothing.
    outside = Guided(model, worse, scale, (5.0, 6.0), rescale=1.0, parallel=0.0, largest=0.1)
    assert torch.equal(outside.denoise(x, t), mean)
    # One number an example has no deviation; guidance goes on without.
    line = GaussianMixture(VP, torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    other_line = GaussianMixture(VP, torch.ones(1), torch.ones(1, 1), torch.ones(1, 1, 1))
    plain, kept = (Guided(line, other_line, 3.0, rescale=phi).denoise(x[:, :1], t) for phi in (0.0, 1.0))
    torch.testing.assert_close(kept, plain)
    with pytest.raises(UserError, match="rescale must be at most 1"):
        Guided(model, worse, rescale=2.0)


def test_the_second_model_is_asked_where_it_is_needed():
    class Counted:
        sde, calls = VP, 0

        def score(self, x: Tensor, t: Tensor) -> Tensor:
            self.calls += 1
            return -x

    x, t = torch.zeros(1, 2, dtype=FLOAT), torch.tensor(0.5, dtype=FLOAT)
    for scale, interval, expected in (
        (0.0, (0.0, math.inf), (0, 1)),
        (1.0, (0.0, math.inf), (1, 0)),
        (2.0, (0.0, math.inf), (1, 1)),
        (2.0, (0.0, 1e-3), (1, 0)),
    ):
        models = Counted(), Counted()
        Guided(models[0], models[1], scale, interval).score(x, t)  # type: ignore[arg-type]
        assert tuple(model.calls for model in models) == expected


class Classifier:
    """The exact classifier of the mixture's components."""

    def log_probs(self, x: Tensor, t: Tensor) -> Tensor:
        joint = [MIXTURE.component(VP, k).log_prob(x, t) + MIXTURE.weights[k].log() for k in range(3)]
        return torch.log_softmax(torch.stack(joint, 1), 1)


def test_rows_of_guidance_are_guidance_of_rows():
    class Scaled:
        """`N(0, 1)`, told a number by which its score is multiplied."""

        sde = VP

        def score(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return -condition.values["factor"][:, None] * x

    def given(*factors: float) -> Given:
        return Given(Scaled(), Condition({"factor": torch.tensor(factors, dtype=FLOAT)}))

    x, t, rows = MIXTURE.sample(3, 4), torch.tensor(0.5, dtype=FLOAT), slice(1, 3)
    guided = Guided(given(1.0, 2.0, 3.0), given(4.0, 5.0, 6.0), 2.0)
    torch.testing.assert_close(guided.score(x, t), x * torch.tensor([[2.0], [1.0], [0.0]], dtype=FLOAT))
    torch.testing.assert_close(rows_of(guided, rows).score(x[rows], t), guided.score(x, t)[rows])

    classes = torch.tensor([0, 1, 2])
    probability = ClassProbability(Classifier(), classes)  # type: ignore[arg-type]
    for model in (ClassifierGuidance(MIXTURE.model(VP), probability, 1.5), ClassifierGuidance(guided, probability)):
        torch.testing.assert_close(rows_of(model, rows).score(x[rows], t), model.score(x, t)[rows])
    exact = ClassifierGuidance(MIXTURE.model(VP), probability).score(x, t)
    for row, k in enumerate(classes.tolist()):
        torch.testing.assert_close(exact[row : row + 1], MIXTURE.component(VP, k).score(x[row : row + 1], t))


def test_likelihoods_are_refused_where_the_score_is_of_no_diffused_density():
    x, model = MIXTURE.sample(2, 9), MIXTURE.model(VP)
    refused = classifier_free(2, 2.0)
    for guided in (
        ClassifierGuidance(model, log_responsibility, 2.0),
        refused,
        classifier_free(2, 0.0, (0.1, 2.0)),
        ClassifierGuidance(refused, log_responsibility),
        Guided(refused, model),
        Guided(model, refused, 0.0),
        Guided(model, model, 0.0, parallel=0.0),
    ):
        with pytest.raises(UserError, match="no log-likelihood: guidance of scale"):
            log_likelihood(guided, x)
    exact = log_likelihood(model, x, divergence="exact").log_prob
    for unguided in (
        ClassifierGuidance(model, log_responsibility, 0.0),
        classifier_free(2, 0.0),
        Guided(model, refused, 1.0),
    ):
        torch.testing.assert_close(log_likelihood(unguided, x, divergence="exact").log_prob, exact)


@pytest.mark.parametrize("options", [{}, {"rescale": 0.5}, {"parallel": 0.3, "largest": 1.0}, {"interval": (0.1, 1.0)}])
def test_steps_of_a_guided_model_have_the_variance_of_the_model_and_the_guided_mean(options) -> None:
    model, reference = KnownVariance(MIXTURE.component(VP, COMPONENT)), MIXTURE.model(VP)
    x, t = VP.prior_sample((5, 2), seeds=range(5), dtype=FLOAT), torch.linspace(0.1, 0.9, 5, dtype=FLOAT)
    guided = Guided(model, reference, 2.0, **options)
    assert guided.steps_by_posterior
    assert not Guided(reference, model, 2.0).steps_by_posterior
    torch.testing.assert_close(guided.posterior(x, t).mean, guided.denoise(x, t), rtol=0, atol=0)
    assert torch.equal(guided.posterior(x, t).both[1], model.posterior(x, t).both[1])
    by_classifier = ClassifierGuidance(KnownVariance(reference), log_responsibility, 2.0)
    assert by_classifier.steps_by_posterior
    torch.testing.assert_close(by_classifier.posterior(x, t).mean, by_classifier.denoise(x, t), rtol=1e-12, atol=1e-12)
    assert torch.equal(by_classifier.posterior(x, t).both[1], reference.posterior(x, t).both[1])


def test_one_network_is_asked_once_for_both():
    """Values that one of the two lacks are hidden of its examples; what is told beside both is told twice."""

    class Told:
        sde = VP

        def __init__(self) -> None:
            self.asked: list[int] = []
            self.network = SimpleNamespace(conditions=("class", "words", "beside"))

        def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
            self.asked.append(len(x))
            values, hidden = ({}, {}) if condition is None else (condition.values, condition.hidden_rows)
            for power, name in enumerate(("class", "words", "beside"), start=1):
                value = values.get(name, torch.zeros(len(x), 1))
                shown = ~hidden.get(name, torch.full((len(x),), name not in values))
                x = x + torch.where(shown[:, None], value.reshape(len(x), -1).sum(1, keepdim=True) + 0.3, 0.7) ** power
            t = torch.as_tensor(t).to(x)
            return x * t.reshape(-1, *(1,) * (t.ndim > 0))

        denoise = score

    model, plain, twin = Told(), Told(), Told()
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.linspace(0.2, 0.8, 4)
    words = Condition({"words": torch.arange(12.0).reshape(4, 3)}).hidden("words", t > 0.7)
    both, beside = Condition({**words.values, "class": torch.arange(4)}), Condition({"beside": torch.ones(4, 1)})
    for asked, away in [
        (words, None),
        (None, both),
        (both, words),
        (words, Condition({"class": torch.ones(4).long()})),
    ]:
        for time in (t, torch.tensor(0.5)):
            guided = Guided(Given(GivenBeside(model, beside), asked), Given(GivenBeside(model, beside), away), 3.0)
            apart = Guided(Given(GivenBeside(plain, beside), asked), Given(GivenBeside(twin, beside), away), 3.0)
            torch.testing.assert_close(guided.score(x, time), apart.score(x, time))
            some = slice(1, 3)
            of_some = time[some] if time.ndim else time
            torch.testing.assert_close(rows_of(guided, some).score(x[some], of_some), guided.score(x, time)[some])
    assert set(model.asked) == {4, 8}
    assert len(model.asked) == 24
    assert plain.asked == twin.asked == [4] * 8
    # Words of other lengths do not lie in one batch.
    model.asked.clear()
    Guided(Given(model, words), Given(model, Condition({"words": torch.ones(4, 2)})), 3.0).score(x, t)
    assert model.asked == [4, 4]
    # Times are what they are for other models, and of what only one is told, one that says nothing of it hears nothing.
    guided = Guided(Given(model, words), model, 3.0)
    expected = guided.score(x, torch.full((4,), 0.5))
    times: list[Any] = [0.5, torch.tensor([0.5]), np.full(4, 0.5)]
    for given in times:
        torch.testing.assert_close(guided.score(x, given), expected)
    model.asked.clear()
    model.network.conditions = ()
    torch.testing.assert_close(guided.score(x, torch.full((4,), 0.5)), expected)
    assert model.asked == [4, 4]
