r"""Posterior sampling: score controls for `p(x_0 | y)`, `y = A(x_0) + s n`, with a model of `p(x_0)`.

`∇ log p_t(x | y) = s(x) + ∇ log p_t(y | x)`, and the second term is approximated from the denoised mean `D = E[x_0 |
x_t = x]`, whose derivative is `J`:

    DPS      ∇ log N(y; A D, s^2 I)  =  J^T A^T (y - A D) / s^2
             as if `x_0` were `D`                           Chung et al. 2023, arXiv:2209.14687, equation 16
    ΠGDM     J^T A^T (s^2 I + r^2 A A^T)^{-1} (y - A D)
             as if `x_0` were `N(D, r^2 I)`                 Song et al. 2023, "Pseudoinverse-guided diffusion models
                                                            for inverse problems", ICLR, equation 7
    MMPS     J^T A^T (s^2 I + A V A^T)^{-1} (y - A D),   V = Cov[x_0 | x_t] = sigma^2 / alpha J
             as if `x_0` were `N(D, V)`                     Rozet et al. 2024, arXiv:2405.13712, section 4

with `r^2 = c^2 sigma^2 / (c^2 alpha^2 + sigma^2)`, the variance of `x_0 | x_t` for data `N(0, c^2 I)` (the paper's
`r_t`, for any process). None is exact but for a Gaussian: ΠGDM is for `N(m, c^2 I)`, MMPS for any covariance. MMPS
solves its equation by a few conjugate gradients, each at the price of one product with `J`; a `J` that is not quite
symmetric, as a network's, is taken as it is. All are in units of the score, so that every solver can use them; DPS's
published step size, which divides by `|y - A D|` and by a solver's own step, is therefore left out, and for small `s`
it needs many steps. `docs/control.md` has the errors on mixtures whose posterior is known.

`A` may be any differentiable function for DPS and MMPS, which take its derivative at `D`; ΠGDM needs a linear one.

The result is not the score of a diffused density, and has no log-likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from score_sde.common.arguments import checked, checked_class
from score_sde.common.condition import Rows
from score_sde.common.errors import UserError
from score_sde.common.score import check_score
from score_sde.control.base import tweedie_factor
from score_sde.control.operators import LinearOperator, Operator, check_linear, conjugate_gradients, linearised
from score_sde.models.wrapper import ModelWrapper, rows_of
from score_sde.solvers import Model
from score_sde.solvers.density.divergence import value_and_pull_back
from score_sde.solvers.options import MOST_STEPS, check_at_least, check_between, check_positive

# Multiplies what is observed, `(B, *observed)`, by a matrix.
Product = Callable[[Tensor], Tensor]


@checked_class
@dataclass(frozen=True)
class Observation:
    """What was observed is `y = A x_0 + noise_std n`, with `n` standard normal.

    Attributes:
        operator: the operator `A`: a `LinearOperator`, or, for DPS, MMPS and TDS, any differentiable function.
        y: the observed values `(B, *observed)`.
        noise_std: standard deviation `s` of the noise, in model units.

    Raises:
        UserError: `noise_std` is negative, or a value has the wrong type.
    """

    operator: Operator
    y: Tensor
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("noise_std", self.noise_std, 0)

    def residual(self, observed: Tensor) -> Tensor:
        """Return `y - A x`, of what would be observed without noise, `A x`, `(B, *observed)`.

        Raises:
            UserError: what was observed has another shape.
        """
        if self.y.shape[1:] != observed.shape[1:] or len(self.y) not in (1, len(observed)):
            raise UserError(f"y has shape {tuple(self.y.shape)}, but its operator gives {tuple(observed.shape)}")
        return self.y.to(observed) - observed

    def rows(self, rows: Rows) -> Observation:
        """Return what was observed of these examples."""
        return replace(self, operator=rows_of(self.operator, rows), y=self.y[rows])


class _PosteriorControl(ModelWrapper):
    """The gradient of `log p_t(y | x)`, as a subclass approximates it, changes the score and the denoised mean."""

    no_density = "posterior sampling by DPS or ΠGDM gives no diffused density"

    @checked
    def __init__(self, model: Model, observation: Observation, scale: float = 1.0) -> None:
        check_score(model, "posterior sampling")
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
        observed, operator = linearised(self.observation.operator, mean)
        residual = self.observation.residual(observed)

        def covariance(v: Tensor) -> Tensor:
            return operator(tweedie_factor(self.sde, t, x) * pull_back(operator.transpose(v, x))[0])

        weighted = operator.transpose(self._weigh(residual, operator, covariance, x, t), x)
        return mean, self.scale * pull_back(weighted)[0]

    def _weigh(self, residual: Tensor, operator: LinearOperator, covariance: Product, x: Tensor, t: Tensor) -> Tensor:
        """Return the inverse covariance of `y` given `x_t`, as it is approximated, times the residual `y - A D`; what
        multiplies by `A V A^T` is given, too."""
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

    def _weigh(self, residual: Tensor, operator: LinearOperator, covariance: Product, x: Tensor, t: Tensor) -> Tensor:
        return residual / self.observation.noise_std**2


class PiGDM(_PosteriorControl):
    """Pseudoinverse-guided diffusion takes a normal distribution around the denoised mean for that of `x_0`.

    Args:
        model: a model of `p(x_0)`, or another control.
        observation: what was observed.
        scale: multiple of the approximate gradient.
        data_std: `c`, the data's standard deviation per dimension, in model units.

    Raises:
        UserError: `data_std` is not positive, or the observation's operator is not linear.
    """

    @checked
    def __init__(self, model: Model, observation: Observation, scale: float = 1.0, data_std: float = 1.0) -> None:
        super().__init__(model, observation, scale)
        check_positive("data_std", data_std)
        check_linear("ΠGDM", observation.operator)
        self.data_std = data_std

    def _weigh(self, residual: Tensor, operator: LinearOperator, covariance: Product, x: Tensor, t: Tensor) -> Tensor:
        here = self.sde.at(t)
        spread = (self.data_std * here.sigma) ** 2 / ((self.data_std * here.alpha) ** 2 + here.sigma**2)
        diagonal = torch.full_like(spread, self.observation.noise_std**2)
        return operator.solve(residual, x, diagonal, spread)


class MMPS(_PosteriorControl):
    """Moment matching takes for the distribution of `x_0` the normal one with its mean and its covariance.

    Args:
        model: a model of `p(x_0)`, or another control.
        observation: what was observed.
        scale: multiple of the approximate gradient.
        iterations: conjugate gradients at most, each of them one product with the derivative of the denoised mean; as
            many as there are numbers observed are always enough.

    Raises:
        UserError: `iterations` is out of range.
    """

    no_density = "posterior sampling by MMPS gives no diffused density"

    @checked
    def __init__(self, model: Model, observation: Observation, scale: float = 1.0, iterations: int = 5) -> None:
        super().__init__(model, observation, scale)
        check_between("iterations", iterations, 1, MOST_STEPS)
        self.iterations = iterations

    def _weigh(self, residual: Tensor, operator: LinearOperator, covariance: Product, x: Tensor, t: Tensor) -> Tensor:
        noise = self.observation.noise_std**2
        return conjugate_gradients(lambda v: noise * v + covariance(v), residual, self.iterations)
