r"""Steps with Gaussian noise, in one place: every solver takes them by `take`, drawn or to a state that is known.

    x_{k+1} ~ N(mean, std^2 I)
    log p(x_{k+1} | what came before) = -|x_{k+1} - mean|^2 / (2 std^2) - d log(sqrt(2 pi) std)

with a mean that depends on the states before, by way of the model, and a standard deviation that depends on the times,
or, of models that know it (`solvers.variances`), on the state too, each number having its own.
Where a solver computes along the axes of a Gaussian (`solvers.fast.axes`), which are orthogonal, the density is the
same in both coordinates. A step without noise (`std = 0`) has no density; it is part of the next mean that has some.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.float64 import in_float64
from score_sde.common.noise import SampleNoise, Stream

if TYPE_CHECKING:
    from score_sde.solvers.fast.axes import InAxes

# Of a solver without noise.
GIVE_IT_NOISE = (
    "its steps have no density; take one that does, such as ddim with eta, default with eta, dpmpp_2m_sde or pc"
)
# Times that differ by less are the same.
_ROUNDING = 1e-9


class Transition(NamedTuple):
    """A step that was taken with noise.

    Attributes:
        t: time of the state after it, `()`, float64.
        x: the state after it, `(B, *dims)`.
        mean: its mean, shape of `x`.
        std: its standard deviation, a number or one for each number of the state, shape of `x`.
        log_prob: its log-density in nats, `(B,)`, float64.
    """

    t: Tensor
    x: Tensor
    mean: Tensor
    std: Tensor | float
    log_prob: Tensor


class Arrived(Exception):  # noqa: N818
    """A solver has been taken to the last of the known states: what it would do after that is not asked for."""


def take(noise: SampleNoise, mean: Tensor, std: Tensor | float, t: Tensor, axes: InAxes | None = None) -> Tensor:
    """Return the state after a step, from `N(mean, std^2 I)`; shape of `mean`.

    Args:
        noise: draws it, or is a `TransitionNoise`.
        mean: `(B, *dims)`.
        std: standard deviation, a number or shaped to multiply the mean.
        t: time after the step.
        axes: those along which the mean is, if not the state's own.
    """
    if isinstance(noise, TransitionNoise) and bool(torch.as_tensor(std).gt(0).all()):
        return noise.taken(mean, std, t, axes)
    return _drawn(noise, mean, std)


def _drawn(noise: SampleNoise, mean: Tensor, std: Tensor | float) -> Tensor:
    z = noise.normal(mean)
    return mean + std * z if isinstance(std, Tensor) else torch.add(mean, z, alpha=std)


class TransitionNoise(SampleNoise):
    """Noise that is drawn as ever, or led to known states, while the steps that take it are written down.

    Args:
        seeds: one an example; none where states are known.
        stream: what the numbers are for.
        states: the known states after each step with noise, `(K, B, *dims)`.
        times: theirs, `(K,)`.

    Attributes:
        transitions: the steps so far.

    Raises:
        UserError: when used: a step leads to another time than that of its state.
    """

    def __init__(
        self, seeds: Sequence[int], stream: Stream, states: Tensor | None = None, times: Tensor | None = None
    ) -> None:
        super().__init__(seeds, stream)
        self.transitions: list[Transition] = []
        self._states, self._times = states, times

    def taken(self, mean: Tensor, std: Tensor | float, t: Tensor, axes: InAxes | None) -> Tensor:
        """Return the state after a step, and write the step down; arguments as of `take`.

        Raises:
            Arrived: it led to the last state that is known.
        """
        alpha = 1.0 if axes is None else float(axes.sde.alpha(t))
        mean_x = mean if axes is None else axes.turned_back(mean, alpha)
        if self._states is None:
            after = _drawn(self, mean, std)
            x = after if axes is None else axes.turned_back(after, alpha)
        else:
            x = self._known(t)
            after = x if axes is None else axes.turned(x, alpha)
        known = std if isinstance(std, Tensor) and std.ndim else float(std)
        self.transitions.append(Transition(t, x, mean_x, known, log_density(after, mean, known)))
        if self._states is not None and len(self.transitions) == len(self._states):
            raise Arrived
        return after

    def _known(self, t: Tensor) -> Tensor:
        assert self._states is not None
        assert self._times is not None
        k = len(self.transitions)
        if abs(float(t) - float(self._times[k])) > _ROUNDING * (1 + abs(float(t))):
            raise UserError(
                f"state {k + 1} of this path is at t = {float(self._times[k]):.6g}, where this solver steps to "
                f"t = {float(t):.6g}: take the solver that the path was sampled with"
            )
        return self._states[k]


def log_density(x: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    """Return `log N(x; mean, std^2)` of each example, in nats, `(B,)`, float64; `std` is a number, or shaped as `x`."""
    if isinstance(std, Tensor):
        std = in_float64(std)
        z = ((in_float64(x) - in_float64(mean)) / std).flatten(1)
        return -(0.5 * z.square() + torch.log(std).expand(x.shape).flatten(1) + 0.5 * math.log(2 * math.pi)).sum(1)
    z = ((in_float64(x) - in_float64(mean)) / std).flatten(1)
    return -0.5 * z.square().sum(1) - z.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))
