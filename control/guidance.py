r"""Guidance: score controls that lead samples towards a condition.

    classifier          s(x) + w ∇ log p_t(y | x)                 Song et al. 2021, arXiv:2011.13456, section 5;
                                                                  with w ≠ 1: Dhariwal & Nichol 2021, arXiv:2105.05233
    by a second model   s_ref(x) + w [s(x) - s_ref(x)]            Karras et al. 2024, arXiv:2406.02507
    on an interval      the same where rho lies in it, else       Kynkäänniemi et al. 2024, arXiv:2404.07724
                        s(x)

`w` is the *scale*: 0 is the reference, 1 the plain model, more is guidance. What the two models are gives it a name:

    classifier-free     `Guided(Given(m, y), m, w)`: s(x | y) beside s(x)        Ho & Salimans 2022, arXiv:2207.12598
    auto-guidance       `Guided(m, worse, w)`: one that is smaller, or was trained for less time
    negative prompts    `Guided(Given(m, y), Given(m, unwanted), w)`

Large scales overshoot. Two remedies change the guided denoised mean, `D + (w - 1) Delta` with `Delta = D - D_ref`, of
each example by itself:

    projected, APG      D + (w - 1) (Delta_perp + eta Delta_par), the parts of `Delta` across `D` and along it, after
                        `Delta` was shortened to a norm of at most `r`      Sadat et al. 2024, arXiv:2410.02416
    rescaled            D_w [(1 - phi) + phi std(D) / std(D_w)], standard deviations over the numbers of an example
                                                                            Lin et al. 2023, arXiv:2305.08891

What lies along `D` saturates colours, what lies across it improves the image. APG's momentum is left out: it remembers
earlier steps, and a model is a function of a state and a time alone, which any solver may ask anywhere. The rescaling
is published for the velocity, which is `-D` where nothing is left of the data, the case that it is made for.

Only with `w = 1` (and plain 0) is the result the score of a diffused density; for other scales `p(x) p(y | x)^w`,
diffused, has another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.condition import Rows
from score_sde.common.errors import UserError
from score_sde.common.posterior import Posterior
from score_sde.common.score import check_score, no_score
from score_sde.control.base import dot, tweedie_factor
from score_sde.models.given import side_by_side
from score_sde.models.inputs import states_and_times
from score_sde.models.wrapper import StepsAsModel, no_density, rows_of
from score_sde.solvers import Model
from score_sde.solvers.density.divergence import value_and_pull_back
from score_sde.solvers.options import check_between, check_positive

# A function gives `log p_t(y | x)` of each example, `(B,)`, at states `(B, *dims)` and times `()` or `(B,)`.
LogProbability = Callable[[Tensor, Tensor], Tensor]

_NOT_DIFFUSED = "guidance of scale {scale:g} gives no diffused density; with scale 1 it does"


class ClassifierGuidance(StepsAsModel):
    """The gradient of a classifier of noisy states is added to the score.

    Args:
        model: a model of `p(x)`, or another control.
        log_prob: log-probability of what is asked for, given the state, such as a
            `models.noisy_classifier.ClassProbability`.
        scale: the factor `w` on the gradient.
    """

    @checked
    def __init__(self, model: Model, log_prob: LogProbability, scale: float = 1.0) -> None:
        check_score(model, "guidance by a classifier")
        super().__init__(model)
        self.log_prob = log_prob
        self.scale = scale

    @property
    def no_density(self) -> str:
        """The reason why there is no log-likelihood is empty if there is one."""
        own = "" if self.scale in (0, 1) else _NOT_DIFFUSED.format(scale=self.scale)
        return own or no_density(self.model)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `s(x) + w ∇ log p_t(y | x)`; shape of `x`."""
        return self.model.score(x, t) + self.scale * self._gradient(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the denoised mean that goes with this score; shape of `x`."""
        return self.model.denoise(x, t) + tweedie_factor(self.sde, t, x) * self.scale * self._gradient(x, t)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return the guided denoised mean, and the variance that the model has; each of the shape of `x`."""
        mean, variance = self.model.posterior(x, t)
        return Posterior(mean + tweedie_factor(self.sde, t, x) * self.scale * self._gradient(x, t), variance)

    def rows(self, rows: Rows) -> ClassifierGuidance:
        """Return the guided model of these examples."""
        part = super().rows(rows)
        part.log_prob = rows_of(self.log_prob, rows)
        return part

    def _gradient(self, x: Tensor, t: Tensor) -> Tensor:
        value, pull_back = value_and_pull_back(lambda x: self.log_prob(x, t), x)
        return pull_back(torch.ones_like(value))[0]


class Guided(StepsAsModel):
    """A model is led away from another, the reference.

    Where both are needed, and are one network that is told two things, its score or denoised mean is asked for once, in
    a batch of twice the size; otherwise there are two network calls.

    Args:
        model: a model of what is wanted, such as `Given(network, condition)`.
        reference: what `model` is led away from: itself without a condition, itself with another one, or a worse model.
        scale: the factor `w` on the difference of the two.
        interval: where `rho = sigma / alpha` has to lie for guidance; elsewhere the scale is 1.
        rescale: the share `phi` of the rescaling to the standard deviation without guidance; 0 is none.
        parallel: the factor `eta` of what lies along the denoised mean; 1 leaves it, 0 is APG's own.
        largest: the norm `r` that the difference of the two denoised means may have.

    Raises:
        UserError: the interval is empty, or an option is out of range.
    """

    @checked
    def __init__(
        self,
        model: Model,
        reference: Model,
        scale: float = 1.0,
        interval: tuple[float, float] = (0.0, math.inf),
        rescale: float = 0.0,
        parallel: float = 1.0,
        largest: float = math.inf,
    ) -> None:
        if not interval[0] < interval[1]:
            raise UserError(
                f"an interval of noise levels begins below its end, unlike {interval[0]:g}, {interval[1]:g}"
            )
        check_between("rescale", rescale, 0, 1)
        check_between("parallel", parallel, 0, 1)
        check_positive("largest", largest)
        super().__init__(model)
        self.reference = reference
        self.scale = scale
        self.interval = interval
        self.rescale = rescale
        self.parallel = parallel
        self.largest = largest

    @property
    def no_density(self) -> str:
        """The reason why there is no log-likelihood is empty if there is one."""
        if self.scale == 1:
            return no_density(self.model)
        if self.scale == 0 and self._straight and self.interval[0] <= 0 and math.isinf(self.interval[1]):
            return no_density(self.reference)
        return _NOT_DIFFUSED.format(scale=self.scale)

    @property
    def no_score(self) -> str:
        """The reason why there is no score is the one model's or the other's; it is empty if both have one."""
        return no_score(self.model) or no_score(self.reference)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `s_ref(x) + w [s(x) - s_ref(x)]`, or the score of what that is projected to; shape of `x`."""
        if self._straight:
            return self._blend("score", x, t)
        alpha, sigma = self.sde.at(t).to(x)
        return (alpha * self.denoise(x, t) - x) / sigma**2

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `D_ref(x) + w [D(x) - D_ref(x)]`, or what that is projected to; shape of `x`."""
        return self._blend("denoise", x, t) if self._straight else self._projected(x, t)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return the guided denoised mean, and the variance that the model has; each of the shape of `x`."""
        mean, variance = self.model.posterior(x, t)
        guided = self._blend("denoise", x, t, mean) if self._straight else self._projected(x, t, mean)
        return Posterior(guided, variance)

    @property
    def jump(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The jumps along the flow are those of the model, where nothing is guided.

        Raises:
            UserError: there is guidance, which belongs to velocities and not to jumps.
        """
        if self.scale == 1:
            return self.model.jump
        raise UserError(
            f"jumps cannot be guided, as by scale {self.scale:g}: guide the teacher of the flow map in training, or "
            "take a solver that asks for the score, such as default"
        )

    def rows(self, rows: Rows) -> Guided:
        """Return the guided model of these examples."""
        part = super().rows(rows)
        part.reference = rows_of(self.reference, rows)
        return part

    @property
    def _straight(self) -> bool:
        """Whether guidance goes straight from one model past the other, by the same way for scores and means."""
        return self.rescale == 0 and self.parallel == 1 and math.isinf(self.largest)

    def _scale(self, t: Tensor) -> Tensor:
        rho = self.sde.at(t).rho
        inside = (rho >= self.interval[0]) & (rho <= self.interval[1])
        return torch.where(inside, self.scale, 1.0)

    def _projected(self, x: Tensor, t: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the guided denoised mean, by APG and rescaled; `own` is the model's, where it is known."""
        scale = self._scale(t)
        if bool((scale == 1).all()):
            return self.model.denoise(x, t) if own is None else own
        mean, reference = self._both("denoise", x, t, own)
        change = mean - reference
        if not math.isinf(self.largest):
            change = change * (self.largest / dot(change, change).sqrt()).clamp(max=1)
        if self.parallel != 1:
            # A mean of 0 has no direction; an infinite quotient would be no number.
            size = dot(mean, mean)
            along = torch.where(size > 0, dot(change, mean) / size, 0.0) * mean
            change = change - (1 - self.parallel) * along
        guided = mean + self.sde.expand(scale - 1, x) * change
        if self.rescale:
            ratio = _std(mean) / _std(guided)
            # Examples of one number, or of equal ones, have no deviation to keep.
            guided = guided * torch.where(ratio.isfinite(), 1 + self.rescale * (ratio - 1), 1.0)
        return guided

    def _blend(self, output: Literal["score", "denoise"], x: Tensor, t: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the guided output; `own` is the model's, where it is known."""
        scale = self._scale(t)
        if bool((scale == 1).all()):
            return getattr(self.model, output)(x, t) if own is None else own
        if bool((scale == 0).all()):
            return getattr(self.reference, output)(x, t)
        mean, reference = self._both(output, x, t, own)
        return reference + self.sde.expand(scale, x) * (mean - reference)

    def _both(self, output: str, x: Tensor, t: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return an output of the model, which is `own` if that is known, and of the reference."""
        together = side_by_side(self.model, self.reference, len(x)) if own is None else None
        if together is None:
            own = getattr(self.model, output)(x, t) if own is None else own
            return own, getattr(self.reference, output)(x, t)
        x, t = states_and_times(self.sde, x, t)
        both = getattr(together, output)(torch.cat([x, x]), torch.cat([t, t]) if t.ndim and len(t) > 1 else t)
        return both[: len(x)], both[len(x) :]


def _std(x: Tensor) -> Tensor:
    """Return the standard deviation over the numbers of each example, shaped to multiply it."""
    deviations = x - x.flatten(1).mean(1).reshape(-1, *(1,) * (x.ndim - 1))
    return (dot(deviations, deviations) / x[0].numel()).sqrt()
