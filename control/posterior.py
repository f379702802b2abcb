r"""Posterior sampling: score controls for `p(x_0 | y)`, `y = A x_0 + s n`, with a model of `p(x_0)`.

`∇ log p_t(x | y) = s(x) + ∇ log p_t(y | x)`, and the second term is approximated from the denoised mean `D = E[x_0 |
x_t = x]`, whose derivative is `J`:

    DPS      ∇ log N(y; A D, s^2 I)  =  J^T A^T (y - A D) / s^2
             as if `x_0` were `D`                           Chung et al. 2023, arXiv:2209.14687, equation 16
    ΠGDM     J^T A^T (s^2 I + r^2 A A^T)^{-1} (y - A D)
             as if `x_0` were `N(D, r^2 I)`                 Song et al. 2023, "Pseudoinverse-guided diffusion models
                                                            for inverse problems", ICLR, equation 7

with `r^2 = c^2 sigma^2 / (c^2 alpha^2 + sigma^2)`, the variance of `x_0 | x_t` for data `N(0, c^2 I)` (the paper's
`r_t`, for any process). Neither is exact but for a Gaussian: for `N(m, c^2 I)` ΠGDM is. Both are in units of
the score, so that every solver can use them; DPS's published step size, which divides by `|y - A D|` and by a solver's
own step, is therefore left out, and for small `s` it needs many steps. `docs/control.md` has the errors on a mixture
whose posterior is known.

The result is not the score of a diffused density, and has no log-likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from score_sde.common.arguments import checked, checked_class
from score_sde.common.condition import Rows
from score_sde.common.errors import UserError
from score_sde.control.base import tweedie_factor
from score_sde.control.operators import LinearOperator
from score_sde.models.wrapper import ModelWrapper, rows_of
from score_sde.solvers import Model
from score_sde.solvers.density.divergence import value_and_pull_back
from score_sde.solvers.options import check_at_least, check_positive


@checked_class
@dataclass(frozen=True)
class Observation:
    """What was observed is `y = A x_0 + noise_std n`, with `n` standard normal.

    Attributes:
        operator: the operator `A`.
        y: the observed values `(B, *observed)`.
        noise_std: standard deviation `s` of the noise, in model units.

    Raises:
        UserError: `noise_std` is negative, or a value has the wrong type.
    """

    operator: LinearOperator
    y: Tensor
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("noise_std", self.noise_std, 0)

    def rows(self, rows: Rows) -> Observation:
        """Return what was observed of these examples."""
        return replace(self, y=self.y[rows])


class _PosteriorControl(ModelWrapper):
    """The gradient of `log p_t(y | x)`, as a subclass approximates it, changes the score and the denoised mean."""

    no_density = "posterior sampling by DPS or ΠGDM gives no diffused density"

    @checked
    def __init__(self, model: Model, observation: Observation, scale: float = 1.0) -> None:
        super().__init__(model)
        self.observation = observation
        self.scale = scale

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `s(x) + scale ∇ log p_t(y | x)`; shape of `x`."""
        mean, gradient = self._mean_and_gradient(x, t)
        alpha, sigma = self.sde.at(t).to(x)
        return (alpha * mean - x) / sigma**2 + gradient

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the denoised mean that goes with this score; shape of `x`."""
        mean, gradient = self._mean_and_gradient(x, t)
        return mean + tweedie_factor(self.sde, t, x) * gradient

    def rows(self, rows: Rows) -> _PosteriorControl:
        """Return the model of these examples, given what was observed of them."""
        part = super().rows(rows)
        part.observation = rows_of(self.observation, rows)
        return part

    def _mean_and_gradient(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        mean, pull_back = value_and_pull_back(lambda x: self.model.denoise(x, t), x)
        operator = self.observation.operator
        residual = self.observation.y.to(x) - operator(mean)
        weighted = operator.transpose(self._weigh(residual, x, t), x)
        return mean, self.scale * pull_back(weighted)[0]

    def _weigh(self, residual: Tensor, x: Tensor, t: Tensor) -> Tensor:
        raise NotImplementedError


class DPS(_PosteriorControl):
    """Diffusion posterior sampling takes the denoised mean for `x_0`.

    Args:
        model: a model of `p(x_0)`, or another control.
        observation: what was observed, with some noise.
        scale: multiple of the approximate gradient.

    Raises:
        UserError: the observation has no noise.
    """

    @checked
    def __init__(self, model: Model, observation: Observation, scale: float = 1.0) -> None:
        if not observation.noise_std > 0:
            raise UserError("DPS divides by the variance of the observation's noise: give some, or use ΠGDM")
        super().__init__(model, observation, scale)

    def _weigh(self, residual: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return residual / self.observation.noise_std**2


class PiGDM(_PosteriorControl):
    """Pseudoinverse-guided diffusion takes a normal distribution around the denoised mean for that of `x_0`.

    Args:
        model: a model of `p(x_0)`, or another control.
        observation: what was observed.
        scale: multiple of the approximate gradient.
        data_std: `c`, the data's standard deviation per dimension, in model units.

    Raises:
        UserError: `data_std` is not positive.
    """

    @checked
    def __init__(self, model: Model, observation: Observation, scale: float = 1.0, data_std: float = 1.0) -> None:
        super().__init__(model, observation, scale)
        check_positive("data_std", data_std)
        self.data_std = data_std

    def _weigh(self, residual: Tensor, x: Tensor, t: Tensor) -> Tensor:
        here = self.sde.at(t)
        spread = (self.data_std * here.sigma) ** 2 / ((self.data_std * here.alpha) ** 2 + here.sigma**2)
        diagonal = torch.full_like(spread, self.observation.noise_std**2)
        return self.observation.operator.solve(residual, x, diagonal, spread)
