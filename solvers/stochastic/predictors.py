r"""Predictors: one step of the reverse process from time `t` down to `s < t`.

Each is a Gaussian step with three coefficients,

    x_s = a x_t + b score(x_t, t) + c z,        z ~ N(0, I).

With the forward transition `x_t | x_s ~ N(alpha_ts x_s, v I)`, where `alpha_ts = alpha_t / alpha_s` and
`v = sigma_t^2 - alpha_ts^2 sigma_s^2`:

    predictor            a                 b               c^2
    euler_maruyama       1 - f (t - s)     g^2 (t - s)     g^2 (t - s)
    reverse_diffusion    2 - alpha_ts      v               v
    ancestral            1 / alpha_ts      v / alpha_ts    v sigma_s^2 / sigma_t^2

A model that knows the variance of `x_0 | x_t` gives the noise of any of them its own, for `c^2` (`solvers.variances`).

All have weak order 1 and cost one score. Times have any shape, and the coefficients that shape, in float64, on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from score_sde.sde import SDE


class GaussianStep(NamedTuple):
    """Coefficients of `x_s = a x_t + b score(x_t, t) + c z`."""

    a: Tensor
    b: Tensor
    c: Tensor


Predictor = Callable[[SDE, Tensor, Tensor], GaussianStep]


def euler_maruyama(sde: SDE, t: Tensor, s: Tensor) -> GaussianStep:
    """Euler-Maruyama on the reverse SDE, with `f` and `g` at `t` (Song et al. 2021, arXiv:2011.13456, section 4.1)."""
    squared_noise = sde.diffusion_squared(t).clamp(min=0) * (t - s)
    return GaussianStep(1 - sde.drift_coefficient(t) * (t - s), squared_noise, squared_noise.sqrt())


def reverse_diffusion(sde: SDE, t: Tensor, s: Tensor) -> GaussianStep:
    """Reverse diffusion sampling (Song et al. 2021, appendix E).

    The paper discretises the forward process as `x_{i+1} = x_i + f_i(x_i) + G_i z` and reverses it with the same `f`
    and `G`: `x_i = x_{i+1} - f(x_{i+1}) + G^2 score + G z`. Here `f(x) = (alpha_ts - 1) x` and `G^2 = v` are those of
    the forward process's exact transition. On DDPM's ladder that is `f = (sqrt(1 - beta_i) - 1) x`, `G^2 = beta_i`,
    and on NCSN's `f = 0`, `G^2 = sigma_i^2 - sigma_{i-1}^2`: Algorithms 3 and 2 of the paper.
    """
    alpha_ts, variance = sde.transition(s, t)
    return GaussianStep(2 - alpha_ts, variance, variance.sqrt())


def ancestral(sde: SDE, t: Tensor, s: Tensor) -> GaussianStep:
    """Ancestral sampling: draws from `p(x_s | x_t, x_0)` with the denoised mean for `x_0`.

    On NCSN's ladder this is SMLD's ancestral rule (Song et al. 2021, appendix F). On DDPM's it is the sampler of Ho
    et al. (2020, arXiv:2006.11239, Algorithm 2) with the smaller of their two variances,
    `beta_i (1 - alpha_bar_{i-1}) / (1 - alpha_bar_i)`; Song et al. (equation 4) have the same mean with the larger,
    `beta_i`. On a Gaussian its mean is exact.
    """
    alpha_ts, variance = sde.transition(s, t)
    return GaussianStep(1 / alpha_ts, variance / alpha_ts, variance.sqrt() * sde.sigma(s) / sde.sigma(t))


PREDICTORS: dict[str, Predictor | None] = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "none": None,
}
