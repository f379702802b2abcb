r"""The posterior `p(theta | x_o)` of a simulator: a run of a model of `theta` given `x`, told what was observed.

    run = fit(theta, condition=x)
    run.posterior(x_o).sample(1000, seed=0)

Answers are in data units. A posterior has the methods, too, that the diagnostics and plots of the package `sbi` ask for
(SBC, TARP, C2ST): sample shapes, other observations by `x=`, many of them at once, and tensors for tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.data import Standardised, Units
from score_sde.experiment.arrays import as_array
from score_sde.experiment.condition_values import observed
from score_sde.experiment.experiment import Experiment
from score_sde.models import GivenToAll

# From so many samples the most probable are chosen, and from so many of these ascent begins.
_CANDIDATES, _STARTS = 200, 3
# A step of ascent takes the best of these fractions, until nothing is gained by so many nats.
_FRACTIONS = [2.0**-k for k in range(8)]
_LEVEL = 1e-4
# Tolerances of the densities that ascent compares.
_CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


class Answers(Protocol):
    """What a posterior asks of a run."""

    def sample(
        self, num_samples: int | None = None, *, condition: Any = None, seed: int | None = None, **options: Any
    ) -> np.ndarray:
        """Draw samples, in data units."""

    def log_prob(self, x: Any, *, condition: Any = None, seed: int | None = None, **options: Any) -> Any:
        """Return log-densities, in data units."""


class Posterior:
    """The posterior given one observation is drawn from, measured, and climbed.

    Args:
        run: the run that answers.
        experiment: its experiment.
        x: what was observed, in data units, one row; None if each question says it.
    """

    def __init__(self, run: Answers, experiment: Experiment, x: Any = None) -> None:
        self._run = run
        self._experiment = experiment
        self._x = None if x is None else self._one(x)
        self._in_torch = _holds_tensors(x)

    def sample(
        self,
        sample_shape: int | Sequence[int] = (),
        *,
        x: Any = None,
        seed: int | None = None,
        show_progress_bars: bool = False,
        **options: Any,
    ) -> Any:
        """Draw samples, `(*sample_shape, *dims)`: an array, or, if `x` or the shape was torch's, a tensor.

        Args:
            sample_shape: how many, or a shape.
            x: another observation.
            seed: sample `i` is drawn with `seed + i`; without one, the first is drawn by torch's generator.
            show_progress_bars: nothing changes by it; `sbi` passes it.
            options: as of `Run.sample`, such as `solver` and `num_steps`.
        """
        shape = _shape(sample_shape)
        drawn = self._draw(math.prod(shape), self._told(x), _seed(seed), options)
        return _like(drawn.reshape(*shape, *drawn.shape[1:]), self._wants_torch(x, sample_shape))

    def sample_batched(
        self,
        sample_shape: int | Sequence[int],
        x: Any,
        *,
        seed: int | None = None,
        show_progress_bars: bool = False,
        **options: Any,
    ) -> Any:
        """Draw samples given each of several observations, `(*sample_shape, B, *dims)`; arguments as of `sample`."""
        shape, rows = _shape(sample_shape), self._rows(x)
        count = math.prod(shape)
        told = rows[torch.arange(len(rows)).repeat(count)]
        drawn = self._run.sample(count * len(rows), condition=told, seed=_seed(seed), **options)
        return _like(drawn.reshape(*shape, len(rows), *drawn.shape[1:]), self._wants_torch(x, sample_shape))

    def log_prob(self, theta: Any, *, x: Any = None, **options: Any) -> Any:
        """Return the log-density of parameters `(N, *dims)`, in nats, `(N,)`, or one number for one.

        Tensors give a tensor, which can be differentiated by them if they want gradients.

        Args:
            theta: parameters, in data units.
            x: another observation.
            options: as of `Run.log_prob`. The divergence is exact, if not asked for otherwise.
        """
        found = self._log_density(theta, self._told(x), options)
        return torch.as_tensor(found) if isinstance(theta, Tensor) else found

    def log_prob_batched(self, theta: Any, x: Any, **options: Any) -> Any:
        """Return log-densities of parameters `(N, B, *dims)`, each column given its own observation, `(N, B)`."""
        rows = self._rows(x)
        array = as_array(theta)
        if array.shape[1:2] != (len(rows),):
            raise UserError(f"parameters given {len(rows)} observations are (N, {len(rows)}, …), not {array.shape}")
        told = rows[torch.arange(len(rows)).repeat(len(array))]
        flat = array.reshape(-1, *array.shape[2:])
        found = self._run.log_prob(flat, condition=told, **_exact(options)).reshape(array.shape[:2])
        return torch.as_tensor(found) if isinstance(theta, Tensor) else found

    def map(self, *, x: Any = None, seed: int = 0) -> Any:
        """Return the parameters of the largest density in data units: the best of samples, and ascent from them.

        Args:
            x: another observation.
            seed: that of the samples from which ascent begins.
        """
        told, units = self._told(x), self._experiment.dataset.units
        drawn = torch.from_numpy(self._draw(_CANDIDATES, told, seed, {}))
        best = torch.as_tensor(self._log_density(drawn.numpy(), told, {})).topk(_STARTS).indices
        states = units.encode(drawn)

        def height(x: Tensor) -> Tensor:
            return torch.as_tensor(self._log_density(units.decode(x).numpy(), told, _CLOSE))

        def slope(x: Tensor) -> Tensor:
            return self._score(x, told) + scale_slope(units, x)

        summit = climb(height, slope, states[best], torch.atleast_2d(torch.cov(states.flatten(1).double().T)))
        return _like(units.decode(summit[None])[0].numpy(), self._wants_torch(x))

    def _draw(self, count: int, told: Any, seed: int, options: Mapping[str, Any]) -> np.ndarray:
        """Draw samples `(count, *dims)` given what is told."""
        return self._run.sample(count, condition=told, seed=seed, **options)

    def _log_density(self, theta: Any, told: Any, options: Mapping[str, Any]) -> Any:
        """Return the log-density of parameters, in data units; differentiable, if they want gradients."""
        return self._run.log_prob(theta, condition=told, **_exact(options))

    def _score(self, x: Tensor, told: Any) -> Tensor:
        """Return the gradient of the log-density of states `(B, *dims)`, in model units, at the last time."""
        model = GivenToAll(self._experiment.model, told.to(distributed.device()))
        with torch.no_grad():
            return model.score(x.to(distributed.device()), torch.tensor(model.sde.t_min)).cpu()

    def _told(self, x: Any) -> Any:
        """Return what was observed, as a condition."""
        if x is None and self._x is None:
            raise UserError("nothing was observed: say posterior(x_o), or x=x_o")
        return self._x if x is None else self._one(x)

    def _rows(self, x: Any) -> Condition:
        """Return observations as a condition, one row each."""
        return observed(self._experiment.config, self._experiment.dataset, x)

    def _one(self, x: Any) -> Condition:
        rows = self._rows(x)
        if len(rows) != 1:
            raise UserError(
                f"one observation is asked for here, not {len(rows)}: for each, sample_batched; for all, posterior(x)"
            )
        return rows

    def _wants_torch(self, x: Any, sample_shape: Any = None) -> bool:
        return _holds_tensors(x) or (x is None and self._in_torch) or isinstance(sample_shape, torch.Size)


def climb(
    height: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    starts: Tensor,
    covariance: Tensor,
    steps: int = 12,
) -> Tensor:
    """Return the highest state `(*dims)` that ascent finds from states `(K, *dims)`.

    A step goes along the covariance times the slope, which in a Gaussian leads to the summit, or a fraction of the way:
    the fraction that is highest is taken, until none leads up.

    Args:
        height: the log-density of states `(B, *dims)`; `(B,)`.
        slope: its gradient; shape of the states.
        starts: where ascent begins.
        covariance: that of the density, or nearly, `(d, d)`, float64.
        steps: the most steps.
    """
    at, reached, rows = starts, height(starts), torch.arange(len(starts))
    for _ in range(steps):
        way = (slope(at).flatten(1).double() @ covariance).reshape(at.shape).to(at)
        tried = at + torch.stack([way * fraction for fraction in _FRACTIONS])
        heights = height(tried.flatten(0, 1)).reshape(tried.shape[:2]).nan_to_num(-math.inf)
        highest, best = heights.max(0)
        up = highest > reached + _LEVEL
        if not up.any():
            break
        at = torch.where(up.reshape(-1, *(1,) * (at.ndim - 1)), tried[best, rows], at)
        reached = torch.where(up, highest, reached)
    return at[reached.argmax()]


def scale_slope(units: Units, x: Tensor) -> Tensor:
    """Return the gradient by `x` of `log |d x / d y|` at states `(B, *dims)`; 0 where units are a scale."""
    with torch.enable_grad():
        states = x.detach().requires_grad_()
        found = units.log_scales(units.decode(states)) if isinstance(units, Standardised) else None
        if found is None or not found.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(found.sum(), states)[0].nan_to_num()


def _exact(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"divergence": "exact", **options}


def _shape(sample_shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return a sample shape as numbers.

    Raises:
        UserError: it is none.
    """
    shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise UserError(f"a sample shape is a number or numbers from 1 on, not {sample_shape}")
    return shape


def _seed(seed: int | None) -> int:
    return int(torch.randint(2**31, ())) if seed is None else seed


def _holds_tensors(x: Any) -> bool:
    return any(isinstance(each, Tensor) for each in (x.values() if isinstance(x, Mapping) else [x]))


def _like(array: np.ndarray, as_tensor: bool) -> Any:
    return torch.from_numpy(array) if as_tensor else array
