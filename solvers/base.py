"""What a solver gives back, and what it asks of a model.

Checks on solver options: each mistake gives one clear line.

Solvers taken apart into steps, each of which depends on nothing but the state it starts from.

Between such steps a state may be changed, or a step be done again: what `control.projection` does. Multistep
methods, which remember earlier outputs, and adaptive ones, whose steps are their own, cannot be taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, NamedTuple, Protocol

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise, Stream, seeds_from_generator
from score_sde.sde import SDE
from score_sde.sde.base import check_first_time


class Model(Protocol):
    """All that a solver knows of a model: a trained network and a `GaussianMixture` are the same thing to it.

    `x` has shape `(B, *dims)`, `t` shape `()` or `(B,)`; results have the shape of `x`.
    """

    @property
    def sde(self) -> SDE:
        """The forward process."""

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """`∇ log p_t(x)`."""

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """`E[x_0 | x_t = x]`."""


class Solution(NamedTuple):
    """The result of a solver.

    Attributes:
        x: samples `(B, *dims)`, at `sigma = 0` unless the solver was told to stop at `t_min`.
        nfe: number of batched network calls.
    """

    x: Tensor
    nfe: int


# More steps, corrections or probes than anyone waits for.
MOST_STEPS = 1_000_000
# Higher ones amplify errors, and the more so the more steps there are: with 50 steps of order 10, samples of a mixture
# of Gaussians are off by 1000.
MAX_ORDER = 6
# Where a process is looked at before it is solved.
_NUM_PLACES = 33
# Half the log-SNR at which alpha has no digit left beside sigma.
_LEAST_HALF_LOG_SNR = math.log(torch.finfo(torch.float64).eps)
# By how much a log-SNR may rise by rounding.
_ROUNDING = 1e-9


def check_at_least(what: str, value: float, least: float) -> None:
    """Raise `UserError` unless `value >= least`."""
    if not value >= least:
        raise UserError(f"{what} must be at least {least:g}, not {_shown(value)}")


def check_positive(what: str, value: float) -> None:
    """Raise `UserError` unless `value > 0`."""
    if not value > 0:
        raise UserError(f"{what} must be positive, not {_shown(value)}")


def check_tolerance(what: str, value: float) -> None:
    """Raise `UserError` unless `0 < value <= 1`: states of size 1 have no larger errors."""
    check_positive(what, value)
    check_between(what, value, 0, 1)


def check_between(what: str, value: float, least: float, most: float) -> None:
    """Raise `UserError` unless `least <= value <= most`."""
    check_at_least(what, value, least)
    if not value <= most:
        raise UserError(f"{what} must be at most {most:g}, not {_shown(value)}")


def _shown(value: float) -> str:
    # A whole number may be too large for float64.
    return f"{value:g}" if abs(value) < 1e300 else "one beyond all bounds"


def check_density(model: object) -> None:
    """Raise `UserError` if a model says that its score is not that of a diffused density, and why: `no_density`."""
    reason = getattr(model, "no_density", "")
    if reason:
        raise UserError(f"this model has no log-likelihood: {reason}")


def as_states(name: str, x: Tensor) -> Tensor:
    """States `x` `(B, *dims)` as solvers take them: whole numbers become torch's default dtype, others keep theirs.

    Raises:
        UserError: they are not real and finite numbers, there is no example, or no dimension of examples.
    """
    if x.ndim < 2 or x.numel() == 0:
        raise UserError(
            f"{name} must have shape (B, *dims), with at least one example and number, not {tuple(x.shape)}"
        )
    if x.is_complex() or x.dtype == torch.bool:
        raise UserError(f"{name} must have real numbers, not {x.dtype}")
    if not x.is_floating_point():
        return x.to(torch.get_default_dtype())
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise UserError(f"{name} must have finite numbers: example {int((~finite).long().argmax())} has others")
    return x


# A parameter of these is given tensors or arrays; see `arguments`.
States = Annotated[Tensor, as_states]


def last_time(sde: SDE, t_min: float | None) -> float:
    """`t_min`, or the process's own if left out. Every solver asks for it, and so is told if it cannot use the process.

    Raises:
        UserError: it is not in `[0, T)`, or the process is none that can be solved between (`check_process`).
    """
    t_min = sde.t_min if t_min is None else t_min
    check_first_time(t_min, sde.T)
    check_process(sde, t_min)
    return t_min


@torch.no_grad()
def check_process(sde: SDE, t_min: float) -> None:
    """Raise `UserError` unless the log-SNR falls from `t_min` to `T` through finite numbers.

    At `t_min` it may be infinite, since some solvers never divide by `sigma` there; see `log_snr_range`.
    """
    name = type(sde).__name__
    times = torch.linspace(float(t_min), sde.T, _NUM_PLACES, dtype=torch.float64)
    log_snr = sde.log_snr(times)
    if bool(log_snr[-1] < 2 * _LEAST_HALF_LOG_SNR):
        raise UserError(
            f"{name} has alpha(T) = 0 at T = {sde.T:g} (alpha / sigma = {math.exp(float(log_snr[-1]) / 2):.2g}): "
            f"nothing of the data is left there, and solvers divide by it; end the process earlier, "
            f"as at T = {0.999 * sde.T:g}, or with less noise"
        )
    wrong = ~log_snr.isfinite()
    wrong[0] = bool(log_snr[0].isnan())
    if bool(wrong.any()):
        place = int(wrong.long().argmax())
        raise UserError(
            f"{name} has the log-SNR {float(log_snr[place]):g} at t = {float(times[place]):g}: alpha and sigma must be "
            f"finite and positive between t_min and T"
        )
    rising = log_snr[1:] > log_snr[:-1] + _ROUNDING * (1 + log_snr[:-1].abs())
    if bool(rising.any()):
        place = int(rising.long().argmax())
        raise UserError(
            f"{name} has a log-SNR that rises from t = {float(times[place]):g} to {float(times[place + 1]):g}: "
            "alpha / sigma must decrease from t = 0 to T"
        )


def log_snr_range(sde: SDE, t_min: float) -> Tensor:
    """The log-SNRs at `T` and `t_min`, `(2,)`, float64, for solvers that go through all between.

    Raises:
        UserError: there is no noise at `t_min`.
    """
    ends = sde.log_snr(torch.tensor([sde.T, t_min], dtype=torch.float64))
    if not bool(ends[1].isfinite()):
        raise UserError(
            f"the log-SNR of {type(sde).__name__} at t_min = {t_min:g} is not finite: t_min must lie where there is "
            "some noise"
        )
    return ends


def sample_noise(
    x: Tensor, seeds: Iterable[int] | None, generator: torch.Generator | None, stream: Stream = "solver"
) -> SampleNoise:
    """A noise source with one generator for each example of `x` `(B, *dims)`.

    Raises:
        UserError: the number of seeds is not the batch size, or they are no seeds.
    """
    noise = SampleNoise(seeds_from_generator(x.shape[0], generator) if seeds is None else seeds, stream)
    noise.check_count(x.shape[0])
    return noise


class Ends(NamedTuple):
    """What is known of the ends of steps: `alpha` and `sigma` there, `(M + 1,)`, float64."""

    alpha: Tensor
    sigma: Tensor

    @staticmethod
    def at_times(sde: SDE, times: Tensor, denoised: bool) -> Ends:
        """The ends at these times, and one more, `alpha = 1` and `sigma = 0`, if the last step denoises."""
        alpha, sigma = sde.alpha(times.double()), sde.sigma(times.double())
        if denoised:
            alpha, sigma = torch.cat([alpha, alpha.new_ones(1)]), torch.cat([sigma, sigma.new_zeros(1)])
        return Ends(alpha, sigma)


class Stepwise(NamedTuple):
    """A solver's steps from the state at `T`.

    Attributes:
        ends: of the steps, one more than there are of these.
        calls: network calls of each.
        step: called with a step's number and the state `(B, *dims)` it starts from; gives that at its end.
    """

    ends: Ends
    calls: list[int]
    step: Callable[[int, Tensor], Tensor]

    def run(self, x: Tensor) -> Solution:
        """All steps, one after the other, from `x` at `T`."""
        for k in range(len(self.calls)):
            x = self.step(k, x)
        return Solution(x, sum(self.calls))
