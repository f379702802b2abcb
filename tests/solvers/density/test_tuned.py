"""Tuned likelihoods against exact log-densities of Gaussian mixtures, and against a hand-written step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.gaussian import fit_gaussian
from score_sde.evaluation.watched import Watched
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE, SubVPSDE
from score_sde.solvers import log_likelihood
from score_sde.solvers.density.tuned import TunedLikelihood, load_likelihood_table, save_likelihood_table
from score_sde.solvers.density.tuning import tune_likelihood

FLOAT = torch.float64
DIMENSION = 6


def mixture(sde) -> GaussianMixture:
    """Return three Gaussians with full covariances."""
    generator = torch.Generator().manual_seed(3)
    means = 0.8 * torch.randn(3, DIMENSION, generator=generator, dtype=FLOAT)
    roots = torch.linalg.qr(torch.randn(3, DIMENSION, DIMENSION, generator=generator, dtype=FLOAT))[0]
    roots = roots * torch.linspace(0.1, 0.5, DIMENSION, dtype=FLOAT)
    return GaussianMixture(sde, torch.tensor([0.5, 0.3, 0.2], dtype=FLOAT), means, roots @ roots.mT)


def examples(model: GaussianMixture, count: int, seed: int) -> Tensor:
    """Return samples at t_min."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.multinomial(model.log_weights.exp(), count, replacement=True, generator=generator)
    normal = torch.randn(2, count, DIMENSION, generator=generator, dtype=FLOAT)
    roots = model.basis * model.eigenvalues.sqrt()[:, None, :]
    x_0 = model.means[picked] + (roots[picked] @ normal[0, :, :, None])[..., 0]
    return model.sde.perturb(x_0, normal[1], torch.tensor(model.sde.t_min, dtype=FLOAT))


def tuned(model: GaussianMixture, num_steps: int, count: int = 400) -> TunedLikelihood:
    """Return a table with exact divergences and the exact density at T."""
    return tune_likelihood(model, num_steps, examples(model, count, 0), divergence="exact", prior=prior_of(model))


def prior_of(model: GaussianMixture):
    return lambda x: model.log_prob(x, torch.tensor(model.sde.T, dtype=FLOAT))


@pytest.mark.parametrize("sde", [SubVPSDE(), VESDE()], ids=["subvp", "ve"])
def test_the_error_on_examples_held_out_is_that_on_new_ones(sde) -> None:
    """With exact scores the truth is known: a table's own word about its error is right, and small."""
    model = mixture(sde)
    table, x = tuned(model, 16), examples(model, 400, 1)
    result = log_likelihood(model, x, divergence="exact", method="tuned", table=table, prior=prior_of(model))
    truth = model.log_prob(x, torch.tensor(sde.t_min, dtype=FLOAT))
    error = (result.log_prob - truth) / DIMENSION
    assert result.nfe == 16
    assert table.held_out.num_examples == 100
    assert 0.6 < error.abs().mean() / table.held_out.mean_absolute < 1.6
    assert error.abs().mean() < 0.005
    assert abs(error.mean() - table.held_out.bias) < 4 * table.held_out.bias_error


def test_more_calls_have_smaller_errors_and_learning_pays() -> None:
    """Errors fall, and are, for few calls, a part of those of as many fixed steps of Adams's method."""
    model = mixture(VPSDE())
    x = examples(model, 200, 1)
    truth = model.log_prob(x, torch.tensor(model.sde.t_min, dtype=FLOAT))
    errors, fixed = list[float](), list[float]()
    for num_steps in (8, 12, 20):
        learned: dict[str, Any] = {"method": "tuned", "table": tuned(model, num_steps)}
        for found, options in ((errors, learned), (fixed, {"method": "adams", "num_steps": num_steps})):
            result = log_likelihood(model, x, divergence="exact", prior=prior_of(model), **options)
            found.append(float((result.log_prob - truth).abs().mean()) / DIMENSION)
    assert errors[0] > 1.5 * errors[1] > 4.5 * errors[2]
    assert all(learned < 0.65 * plain for learned, plain in zip(errors[:2], fixed[:2], strict=True))


def test_steps_are_those_of_the_table() -> None:
    """A model without a Gaussian, in one dimension: two steps are done by hand."""

    class Field(nn.Module):
        sde = VPSDE()

        def score(self, x: Tensor, t: Tensor) -> Tensor:
            return -torch.tanh(2 * x)

        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            raise AssertionError

    model = Field()
    x = torch.linspace(-1, 1, 40, dtype=FLOAT)[:, None]
    table = tune_likelihood(model, 2, x, divergence="exact")
    result = log_likelihood(model, x, divergence="exact", method="tuned", table=table)
    sde, slopes = model.sde, list[Tensor]()
    start = z = x / float(sde.at(table.times[0]).r)
    integral = torch.full((len(x),), table.constant, dtype=FLOAT)
    for i, t in enumerate(table.times[:2]):
        at = sde.at(t)
        r, theta = float(at.r), float(at.theta)
        # z' = rate (eps - sin z) / cos, eps = sigma tanh(2 r z)
        rate = theta + 0.03
        slope = rate * (float(at.sigma) * torch.tanh(2 * r * z) - math.sin(theta) * z) / math.cos(theta)
        divergence = rate * (float(at.sigma) * 2 * r / torch.cosh(2 * r * z) ** 2 - math.sin(theta)) / math.cos(theta)
        slopes.append(slope)
        integral = integral + table.divergence[i] * divergence[:, 0]
        z = start + sum((table.state[i, j, 0] * slope for j, slope in enumerate(slopes)), torch.zeros_like(x))
    end = float(sde.at(table.times[-1]).r)
    log_norm = math.log(end) - math.log(float(sde.at(table.times[0]).r))
    by_hand = sde.prior_log_prob(z * end) + integral + log_norm
    torch.testing.assert_close(result.log_prob, by_hand, rtol=1e-10, atol=1e-10)


def test_batches_and_files_change_nothing(tmp_path) -> None:
    model = mixture(VPSDE())
    x = examples(model, 80, 0)
    whole = tune_likelihood(model, 4, x, seeds=range(80))
    parts = tune_likelihood(model, 4, x, seeds=range(80), batch_size=33)
    save_likelihood_table(tmp_path / "table.json", whole)
    again = load_likelihood_table(tmp_path / "table.json")
    for name in ("times", "state", "divergence"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-6, atol=1e-8)
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert again.held_out == whole.held_out
    few = log_likelihood(model, x[:3], seeds=range(3), method="tuned", table=again)
    all_of_them = log_likelihood(Watched(model, lambda t: None), x, seeds=range(80), method="tuned", table=whole)
    torch.testing.assert_close(few.log_prob, all_of_them.log_prob[:3], rtol=1e-12, atol=1e-12)


def test_a_table_for_something_else_is_refused(tmp_path) -> None:
    model = mixture(VPSDE())
    x = examples(model, 80, 0)
    table = tune_likelihood(model, 4, x)

    def asked(model=model, x=x, **options) -> None:
        log_likelihood(model, x, **{"method": "tuned", "table": table, **options})

    for message, call in {
        "needs table=": lambda: asked(table=None),
        "takes no table": lambda: asked(method="adams", num_steps=4),
        "leave out rtol": lambda: asked(rtol=1e-3),
        "no derivative": lambda: asked(differentiable=True),
        "another t_min": lambda: asked(t_min=0.01),
        "another process": lambda: asked(mixture(VPSDE(beta_max=10.0))),
        "of shape": lambda: asked(x=x[:, None]),
        "for another model": lambda: asked(Other(model)),
        "too few for 4 steps": lambda: tune_likelihood(model, 4, x[:20]),
        "num_steps": lambda: tune_likelihood(model, 100, x),
        "there is no tuned": lambda: load_likelihood_table(tmp_path / "none.json"),
    }.items():
        with pytest.raises(UserError, match=message):
            call()
    broken = tmp_path / "broken.json"
    for text in ("{", "{}", "[1]"):
        broken.write_text(text)
        with pytest.raises(UserError, match="does not hold"):
            load_likelihood_table(broken)


class Other:
    """A model with the same process and other numbers."""

    def __init__(self, model: GaussianMixture) -> None:
        self.sde, self.score, self.denoise = model.sde, model.score, model.denoise
        self.gaussian = fit_gaussian(examples(model, 50, 5))
