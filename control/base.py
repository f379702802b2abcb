"""Score controls: a model with another score is a model again.

What is added to the score, times `sigma^2 / alpha`, is added to the denoised mean, by Tweedie's formula

    denoise(x, t) = (x + sigma^2 score(x, t)) / alpha.

The plumbing of every model that asks another is `models.wrapper.ModelWrapper`.
"""

from __future__ import annotations

from torch import Tensor

from score_sde.sde import SDE


def tweedie_factor(sde: SDE, t: Tensor, x: Tensor) -> Tensor:
    """Return `sigma^2 / alpha`, by which a change of the score changes the denoised mean; shaped to multiply `x`."""
    here = sde.at(t)
    return sde.expand(here.sigma**2 / here.alpha, x)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each example's `a` and `b` `(B, *dims)`, shaped to multiply them."""
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))
