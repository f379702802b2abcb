r"""Guidance: score controls that lead samples towards a class.

    classifier          s(x) + w ∇ log p_t(y | x)                 Song et al. 2021, arXiv:2011.13456, section 5;
                                                                  with w ≠ 1: Dhariwal & Nichol 2021, arXiv:2105.05233
    classifier-free     s(x) + w [s(x | y) - s(x)]                Ho & Salimans 2022, arXiv:2207.12598
    on an interval      the same where rho lies in it, else       Kynkäänniemi et al. 2024, arXiv:2404.07724
                        s(x | y)

`w` is the *scale*: 0 is unconditional, 1 the plain conditional, more is guidance. Only with `w = 1` (and 0) is the
result the score of a diffused density; for other scales `p(x) p(y | x)^w`, diffused, has another one.

A score control wraps a model and is one again: `.sde`, `.score`, `.denoise`; what is added to the score, times
`sigma^2 / alpha`, is added to the denoised mean (Tweedie).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.models.given import ClassModel
from score_sde.sde import SDE
from score_sde.solvers import Model
from score_sde.solvers.density.divergence import value_and_pull_back

# `log p_t(y | x)` of each example, `(B,)`, at states `(B, *dims)` and times `()` or `(B,)`.
LogProbability = Callable[[Tensor, Tensor], Tensor]

_NOT_DIFFUSED = "guidance of scale {scale:g} gives no diffused density; with scale 1 it does"


class ClassifierGuidance:
    """The gradient of a classifier of noisy states, added to the score.

    Args:
        model: of `p(x)`, or another control.
        log_prob: of what is asked for, given the state.
        scale: `w`.
    """

    @checked
    def __init__(self, model: Model, log_prob: LogProbability, scale: float = 1.0) -> None:
        self.model = model
        self.log_prob = log_prob
        self.scale = scale

    @property
    def sde(self) -> SDE:
        """The forward process."""
        return self.model.sde

    @property
    def no_density(self) -> str:
        """Why there is no log-likelihood; empty if there is."""
        own = "" if self.scale in (0, 1) else _NOT_DIFFUSED.format(scale=self.scale)
        return own or getattr(self.model, "no_density", "")

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """`s(x) + w ∇ log p_t(y | x)`; shape of `x`."""
        return self.model.score(x, t) + self.scale * self._gradient(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """The denoised mean that goes with this score; shape of `x`."""
        return self.model.denoise(x, t) + tweedie_factor(self.sde, t, x) * self.scale * self._gradient(x, t)

    def _gradient(self, x: Tensor, t: Tensor) -> Tensor:
        value, pull_back = value_and_pull_back(lambda x: self.log_prob(x, t), x)
        return pull_back(torch.ones_like(value))[0]


class ClassifierFreeGuidance:
    """Two scores of a model that knows `p(x | y)` and `p(x)`; two network calls where both are needed.

    Args:
        model: whose network takes classes, some of which were hidden in training.
        classes: whole numbers `(B,)`.
        scale: `w`.
        interval: of noise levels `rho = sigma / alpha`; elsewhere the scale is 1.

    Raises:
        UserError: the interval is empty.
    """

    @checked
    def __init__(
        self, model: ClassModel, classes: Tensor, scale: float = 1.0, interval: tuple[float, float] = (0.0, math.inf)
    ) -> None:
        if not interval[0] < interval[1]:
            raise UserError(
                f"an interval of noise levels begins below its end, unlike {interval[0]:g}, {interval[1]:g}"
            )
        self.model = model
        self.classes = classes
        self.scale = scale
        self.interval = interval

    @property
    def sde(self) -> SDE:
        """The forward process."""
        return self.model.sde

    @property
    def no_density(self) -> str:
        """Why there is no log-likelihood; empty if there is."""
        whole = self.interval[0] <= 0 and math.isinf(self.interval[1])
        diffused = self.scale == 1 or (self.scale == 0 and whole)
        own = "" if diffused else _NOT_DIFFUSED.format(scale=self.scale)
        return own or getattr(self.model, "no_density", "")

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """`s(x) + w [s(x | y) - s(x)]`; shape of `x`."""
        return self._blend(self.model.score, x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """`D(x) + w [D(x | y) - D(x)]`; shape of `x`."""
        return self._blend(self.model.denoise, x, t)

    def _blend(self, output: Callable[..., Tensor], x: Tensor, t: Tensor) -> Tensor:
        rho = self.sde.at(t).rho
        inside = (rho >= self.interval[0]) & (rho <= self.interval[1])
        scale = torch.where(inside, self.scale, 1.0)
        if bool((scale == 1).all()):
            return output(x, t, self.classes)
        unconditional = output(x, t)
        if bool((scale == 0).all()):
            return unconditional
        return unconditional + self.sde.expand(scale, x) * (output(x, t, self.classes) - unconditional)


def tweedie_factor(sde: SDE, t: Tensor, x: Tensor) -> Tensor:
    """`sigma^2 / alpha`, by which a change of the score changes the denoised mean; shaped to multiply `x`."""
    here = sde.at(t)
    return sde.expand(here.sigma**2 / here.alpha, x)
