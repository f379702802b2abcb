r"""The posterior given several independent observations of the same parameters, `p(theta | x_1, …, x_n)`.

It is drawn from by composing scores (`control.composition`), with covariances of samples given each observation, and
measured as what it is, whatever the samples are like,

    p(theta | x_1, …, x_n) = p(theta)^{1-n} prod_i p(theta | x_i) / Z.

`Z` comes from importance sampling: with draws from a proposal `q`, a mixture of Gaussians fitted to the samples and
made wider, it is the mean of their weights, the product over `q`, and its logarithm is known but for an error, which
is told.

The prior is the model's own, `p(theta)`, learnt where the condition was hidden; or a known one: uniform in the box that
the parameters lie in, or Gaussian, both Gaussian in model units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.control import Composed
from score_sde.data import Standardised
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.posterior import Answers, Posterior
from score_sde.models import GaussianMixture, GivenToAll
from score_sde.models.gaussian_mixture import fit_mixture

UNIFORM = "uniform"
# Samples given each observation, for its covariance, and of the posterior, for the proposal.
_SAMPLES, _FITTED = 1000, 1000
# The proposal has so many Gaussians, and so many times their deviations.
_COMPONENTS, _WIDER = 4, 1.25


class Normaliser(NamedTuple):
    """The normaliser of a product of densities was estimated.

    Attributes:
        log: `log Z`, in nats.
        error: its standard error, in nats.
        effective_size: so many equally weighted draws would say as much.
    """

    log: float
    error: float
    effective_size: float


class ComposedPosterior(Posterior):
    """The posterior given all of several observations is drawn from, measured, and climbed.

    Args:
        run: the run that answers.
        experiment: its experiment.
        rows: what was observed, one row each.
        prior: None for the model's own, "uniform" for that in the box, or mean and covariance of a Gaussian, in data
            units.
        draw_from: draws so many samples of a model, in data units, by a seed and options of `Run.sample`.

    Raises:
        UserError: there is no such prior.
    """

    def __init__(
        self,
        run: Answers,
        experiment: Experiment,
        rows: Condition,
        prior: Any,
        draw_from: Callable[[Any, int, int, Mapping[str, Any]], np.ndarray],
    ) -> None:
        super().__init__(run, experiment)
        self.rows = rows
        self._draw_from = draw_from
        self._prior = known_prior(experiment, prior)
        if self._prior is None and not experiment.config.training.label_dropout:
            raise UserError(
                'this model was trained with its condition never hidden, and knows no prior: say prior="uniform", or '
                "prior=(mean, covariance)"
            )

    @cached_property
    def model(self) -> Composed:
        """The composed model; covariances come from samples given each observation, when it is first asked for."""
        units, count = self._experiment.dataset.units, len(self.rows)
        told = self.rows[torch.arange(count).repeat_interleave(_SAMPLES)]
        drawn = units.encode(torch.from_numpy(self._run.sample(count * _SAMPLES, condition=told, seed=0)))
        covariances = torch.stack([_covariance(part) for part in drawn.chunk(count)])
        if self._prior is None:
            prior, spread = (
                self._experiment.model,
                _covariance(units.encode(torch.from_numpy(self._run.sample(4 * _SAMPLES, seed=count * _SAMPLES)))),
            )
        else:
            prior, spread = self._prior, _covariance_of(self._prior)
        device = distributed.device()
        each = [GivenToAll(self._experiment.model, self.rows[k : k + 1].to(device)) for k in range(count)]
        return Composed(each, prior, covariances, spread)

    def log_prob(self, theta: Any, *, x: Any = None, **options: Any) -> Any:
        """Return the log-density of parameters, as of `Posterior`; its error, common to all, is `normaliser.error`."""
        return super().log_prob(theta, x=x, **options) - self.normaliser.log

    @cached_property
    def normaliser(self) -> Normaliser:
        """The normaliser `Z`, from 500 draws, when it is first asked for."""
        return self.normalised_by(500)

    def normalised_by(self, num_draws: int, seed: int = 0) -> Normaliser:
        """Return the normaliser as so many draws of the proposal tell it."""
        units, sde = self._experiment.dataset.units, self._experiment.model.sde
        assert isinstance(units, Standardised)
        samples = torch.from_numpy(self._draw(_FITTED, None, seed, {}))
        proposal = _wider(fit_mixture(sde, units.encode(samples), _COMPONENTS, seed))
        states, log_q = _drawn(proposal, num_draws, seed)
        theta = units.decode(states)
        log_weights = torch.as_tensor(self._log_density(theta.numpy(), None, {})) - log_q - units.log_scales(theta)
        log_weights = log_weights.nan_to_num(-math.inf, neginf=-math.inf)
        weights = torch.exp(log_weights - log_weights.max())
        mean, error = weights.mean(), weights.std() / math.sqrt(num_draws)
        size = (weights.sum() ** 2 / weights.square().sum()).item()
        return Normaliser((log_weights.max() + mean.log()).item(), (error / mean).item(), size)

    def _draw(self, count: int, told: Any, seed: int, options: Mapping[str, Any]) -> np.ndarray:
        return self._draw_from(self.model, count, seed, options)

    def _log_density(self, theta: Any, told: Any, options: Mapping[str, Any]) -> Any:
        """Return the log-density of parameters but for the normaliser, in data units."""
        theta = theta if isinstance(theta, Tensor) else np.asarray(theta)
        several = theta.ndim > 1
        batch = theta if several else theta[None]
        count, size = len(self.rows), len(batch)
        told = self.rows[torch.arange(count).repeat_interleave(size)]
        repeated = torch.cat([batch] * count) if isinstance(batch, Tensor) else np.concatenate([batch] * count)
        each = torch.as_tensor(super()._log_density(repeated, told, options)).reshape(count, size)
        of_prior = self._known(batch) if self._prior is not None else super()._log_density(batch, None, options)
        together = each.sum(0) - (count - 1) * torch.as_tensor(of_prior)
        # Outside the box there is nothing, and nothing less nothing.
        together = torch.where(each[0] == -math.inf, -math.inf, together)
        if isinstance(theta, Tensor):
            return together if several else together[0]
        return together.numpy() if several else float(together)

    def _known(self, theta: Any) -> Tensor:
        """Return the log-density of parameters `(N, d)` under a known prior, in data units."""
        units = self._experiment.dataset.units
        assert self._prior is not None
        assert isinstance(units, Standardised)
        y = torch.as_tensor(theta)
        t = torch.tensor(self._prior.sde.t_min, dtype=torch.float64)
        return self._prior.log_prob(units.encode(y).double(), t) + units.log_scales(y)

    def _score(self, x: Tensor, told: Any) -> Tensor:
        device = distributed.device()
        with torch.no_grad():
            return self.model.score(x.to(device), torch.tensor(self.model.sde.t_min)).cpu()

    def _told(self, x: Any) -> None:
        self._rows(x)

    def _rows(self, x: Any) -> Condition:
        if x is not None:
            raise UserError("this posterior has its observations already: leave x out, or ask run.posterior(x)")
        return self.rows


def known_prior(experiment: Experiment, prior: Any) -> GaussianMixture | None:
    """Return a known prior, in model units; None for None.

    Args:
        experiment: what the parameters are, and the process.
        prior: "uniform", in the box, or mean and covariance of a Gaussian, in data units; or None.

    Raises:
        UserError: it is none, or there is no box.
    """
    units, shape = experiment.dataset.units, experiment.dataset.shape
    if not isinstance(units, Standardised) or len(shape) != 1:
        raise UserError(f"several observations are of vectors that they have in common, not of shape {shape}")
    if prior is None:
        return None
    mean, std = (part.expand(shape) for part in (units.mean, units.std))
    if isinstance(prior, str):
        if prior != UNIFORM or units.box is None:
            raise UserError(
                f"prior={prior!r}: say uniform, of a run with a box, fit(…, box=(low, high)), or (mean, covariance)"
            )
        centre, covariance = torch.zeros(shape, dtype=torch.float64), torch.eye(shape[0], dtype=torch.float64)
    else:
        if units.box is not None:
            raise UserError('parameters that lie in a box have no Gaussian prior: say prior="uniform", or None')
        try:
            centre, covariance = (torch.as_tensor(np.asarray(part, dtype=np.float64)) for part in prior)
            centre, covariance = centre.reshape(shape), covariance.reshape(*shape, *shape)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"a Gaussian prior is (mean, covariance), of {shape[0]} numbers, not {prior}") from error
    scaled = covariance / torch.outer(std, std)
    return GaussianMixture(experiment.model.sde, torch.ones(1), ((centre - mean) / std)[None], scaled[None])


def _covariance(x: Tensor) -> Tensor:
    """Return the covariance of states `(N, d)`, `(d, d)`, whose inverse is unbiased where they are Gaussian."""
    count, size = x.shape
    return torch.atleast_2d(torch.cov(x.double().T)) * (count - 1) / max(count - size - 2, 1)


def _covariance_of(mixture: GaussianMixture) -> Tensor:
    """Return the covariance of the only component of a mixture."""
    return (mixture.basis[0] * mixture.eigenvalues[0]) @ mixture.basis[0].mT


def _wider(mixture: GaussianMixture) -> GaussianMixture:
    """Return a mixture with larger deviations."""
    covariances = (mixture.basis * (_WIDER**2 * mixture.eigenvalues).unsqueeze(1)) @ mixture.basis.mT
    return GaussianMixture(mixture.sde, mixture.log_weights.exp(), mixture.means, (covariances + covariances.mT) / 2)


def _drawn(mixture: GaussianMixture, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return draws `(count, d)` of a mixture at the first time, and their log-density; float64."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(mixture.log_weights.exp(), count, replacement=True, generator=generator)
    first, second = (torch.randn(count, mixture.means.shape[1], generator=generator, dtype=torch.float64) for _ in "ab")
    turned = torch.einsum("nij,nj->ni", mixture.basis[chosen], mixture.eigenvalues[chosen].sqrt() * first)
    t = torch.tensor(mixture.sde.t_min, dtype=torch.float64)
    states = mixture.sde.perturb(mixture.means[chosen] + turned, second, t)
    return states, mixture.log_prob(states, t)
