r"""The reverse family: every process that runs from `p_T` to `p_0` with the same marginals.

    dx = [f(t) x - (1 + eta^2)/2 g(t)^2 score(x, t)] dt + eta g(t) dw̄        (time runs from T down to 0)

`eta = 1` is the reverse SDE (Song et al. 2021, arXiv:2011.13456, equation 6; Anderson 1982), `eta = 0` the
probability flow ODE (equation 13).
"""

from __future__ import annotations

from torch import Tensor

from score_sde.sde.base import SDE


def reverse_drift(sde: SDE, x: Tensor, t: Tensor, score: Tensor, eta: float) -> Tensor:
    """`f x - (1 + eta^2)/2 g^2 score`, to be multiplied by a negative `dt`; same shape and dtype as `x`."""
    return sde.drift(x, t) - sde.expand(0.5 * (1 + eta**2) * sde.diffusion_squared(t), x) * score


def reverse_diffusion(sde: SDE, t: Tensor, eta: float) -> Tensor:
    """`eta g(t)`; same shape as `t`, float64."""
    return eta * sde.diffusion(t)
