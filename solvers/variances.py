r"""The variance of a reverse step, of a model that knows what it does not know of the data.

Between `x_t` and `x_s`, `s < t`, steps with noise go as if the data were known: `x_s | x_t, x_0` is normal, with mean
`c_0 x_0 + c_t x_t` and variance `beta`, and the denoised mean `D` stands for `x_0`. Whoever also has the variance of
`x_0 | x_t` has that of the step, by the law of total variance (Bao et al. 2022, arXiv:2201.06503, theorem 1):

    x_s | x_t ~ N(c_0 D + c_t x_t,  beta + c_0^2 Var[x_0 | x_t])

This is the best of all diagonal variances, for every `s`, whatever steps a model was trained with. Without it there
are two fixed ones: `beta`, right where data are known for certain, and the forward step's `v`, right where they are
standard normal (Ho et al. 2020, arXiv:2006.11239, section 3.2); for DDPM these are beta-tilde and beta.

A model has such a variance if it says so, by `steps_by_posterior`; `posterior(x, t)` then gives mean and variance
(`common.posterior`) in the place of `score` and `denoise`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from score_sde.common.posterior import Posterior
from score_sde.sde import SDE

# An estimated variance may be negative; a step has at least this part of the variance that it has with data known.
LEAST_SHARE = 1e-3


def posterior_of(model: object) -> Callable[[Tensor, Tensor], Posterior] | None:
    """Return what gives mean and variance of `x_0 | x_t` for a model's steps; None if their variances are fixed."""
    return model.posterior if getattr(model, "steps_by_posterior", False) else None  # type: ignore[attr-defined]


def step_std(sde: SDE, s: Tensor, t: Tensor, variance: Tensor) -> Tensor:
    """Return the standard deviation of `x_s | x_t`, given the variance of `x_0 | x_t`, whose shape it has."""
    scale, floor = sde.backward(s, t)
    return total_std(variance, sde.expand(scale, variance), sde.expand(floor, variance))


def total_std(variance: Tensor, scale: Tensor | float, floor: Tensor | float) -> Tensor:
    """Return `sqrt(floor + scale^2 variance)`; shape of `variance`."""
    total = floor + scale**2 * variance
    return total.clamp(min=LEAST_SHARE * floor).sqrt()


def score_of(sde: SDE, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
    """Return the score at states `x` whose denoised mean is known, by Tweedie's formula; shape of `x`."""
    alpha, sigma = sde.at(t).to(x)
    return (alpha * denoised - x) / sigma**2
