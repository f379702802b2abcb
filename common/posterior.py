"""What a model knows of the data behind a noisy state, `x_0 | x_t`: its mean, and its variance if the model has one.

By Tweedie's formulas, with `D` the mean as a function of the state,

    E[x_0 | x_t]     = D(x_t) = (x_t + sigma^2 score) / alpha
    Cov[x_0 | x_t]   = (sigma^2 / alpha) dD/dx_t

so that a model of the score alone has a variance at the price of its derivative; some know it otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Posterior(NamedTuple):
    """Holds the moments of `x_0 | x_t` that a model knows.

    Attributes:
        mean: `E[x_0 | x_t]`, `(B, *dims)`.
        variance: the variance of each number by itself, the covariance's diagonal, `(B, *dims)`; None if not known.
    """

    mean: Tensor
    variance: Tensor | None = None

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, of a model that knows the variance."""
        assert self.variance is not None
        return self.mean, self.variance
