r"""The reverse SDE in normalised coordinates, as torchsde wants it (see `solvers.stochastic.reverse_sde`).

    du = [s^2 u + (1 + eta^2) s sigma score(x, t)] dlambda + eta sqrt(2) s dw

torchsde does not say what it does. But each of its steps asks for the Brownian motion from where it starts, once and
first, then for the drift there. Its adaptive steps come in threes: a whole one, whose result it only compares, and its
two halves. So a state that was accepted is one from which two steps in a row start (`WatchedReverseSDE`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.sde import SDE
from score_sde.solvers.base import Model
from score_sde.solvers.process import log_snr_range
from score_sde.solvers.stochastic.brownian import Brownian
from score_sde.solvers.trajectory import Watch, tweedie


class NormalisedReverseSDE:
    """The SDE of the module's docstring as torchsde wants it: `f` and `g_prod` on states of shape `(B, d)`.

    Attributes:
        nfe: network calls so far.
        last_t: the time of the last one.
    """

    noise_type = "additive"
    sde_type = "ito"

    def __init__(self, model: Model, shape: torch.Size, t_min: float, num_intervals: int, eta: float) -> None:
        self.model, self.shape, self.t_min, self.eta = model, shape, t_min, eta
        start, end = (0.5 * log_snr_range(model.sde, t_min)).unbind()
        self.start, self.rate = start, (end - start) / max(num_intervals, 1)
        self.nfe, self.t_max = 0, model.sde.t_max
        self.last_t = self.t_max
        # torchsde asks again at places it has just been to; two of them are remembered.
        self._recent: deque[tuple[float, Tensor, Tensor]] = deque(maxlen=2)

    def f(self, step: Tensor, u: Tensor) -> Tensor:
        """Return the drift `[s^2 u + (1 + eta^2) s sigma score] dlambda/dstep` at `u` `(B, d)`; shape of `u`."""
        for known_step, known_u, drift in self._recent:
            if known_u is u and known_step == float(step):
                return drift
        t, sde = self.times(step), self.model.sde
        sigma, power = sde.sigma(t), _power(sde, t)
        x = sde.expand(power, u) * u
        score = self._score(step, t, x.reshape(self.shape)).reshape(u.shape)
        weight = (1 + self.eta**2) * sigma**2 / power
        drift = self.rate * (sde.expand((sigma / power) ** 2, u) * u + sde.expand(weight, u) * score)
        self.nfe, self.last_t = self.nfe + 1, float(t)
        self._recent.append((float(step), u, drift))
        return drift

    def _score(self, step: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return self.model.score(x, t)

    def g_prod(self, step: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the diffusion times `v` `(B, d)`: `eta sqrt(2 dlambda/dstep) s v`; shape of `u`."""
        t, sde = self.times(step), self.model.sde
        return sde.expand(self.eta * (2 * self.rate).sqrt() * sde.sigma(t) / _power(sde, t), u) * v

    def normalise(self, x: Tensor, step: int) -> Tensor:
        """Return `u` `(B, d)` from `x` `(B, *dims)` after so many steps."""
        return x.flatten(1) / self._norm(step)

    def denormalise(self, u: Tensor, step: int) -> Tensor:
        """Return `x` `(B, *dims)` from `u` `(B, d)` after so many steps."""
        return u.reshape(self.shape) * self._norm(step)

    def noise_of_step(self, step: int) -> float:
        """Return the standard deviation of the noise that Euler's step after so many adds to `x`."""
        one = torch.ones(1, 1, dtype=torch.float64)
        return float(self.g_prod(torch.tensor(step), one, one)) * self._norm(step + 1)

    @property
    def last(self) -> Tensor:
        """The last time is `t_min`, `()`, float64."""
        return torch.tensor(self.t_min, dtype=torch.float64)

    def _norm(self, step: int) -> float:
        return float(_power(self.model.sde, self.times(torch.tensor(step))))

    def times(self, step: Tensor) -> Tensor:
        """Return the times in `[t_min, t_max]` after so many steps; float64, on the CPU."""
        return self.model.sde.time_at_log_snr(2 * (self.start + self.rate * step)).clamp(self.t_min, self.t_max)


class WatchedReverseSDE(NormalisedReverseSDE):
    """The same, which tells a watch, that is its model, from which states the steps start.

    Args:
        watch: it is told.
        start: the states at `t_max`, `(B, *dims)`.
        t_min: last time.
        num_intervals: steps, if they are fixed.
        eta: amount of noise.
        adaptive: whether steps are adaptive.
    """

    def __init__(
        self, watch: Watch, start: Tensor, t_min: float, num_intervals: int, eta: float, adaptive: bool
    ) -> None:
        super().__init__(watch, start.shape, t_min, num_intervals, eta)
        self._watch, self._first, self._adaptive = watch, start, adaptive
        # Where the first step starts, torchsde asks before that, for the shape.
        self._start, self._told = 0.0, -1.0
        self._learnt: tuple[Tensor | float, Tensor, Tensor] | None = None

    def starts(self, step: float) -> None:
        """Hear where a step starts; the second in a row from there shows that the state was accepted."""
        if step == self._start > self._told:
            self._tell()
        self._start = step

    def _score(self, step: Tensor, t: Tensor, x: Tensor) -> Tensor:
        score = super()._score(step, t, x)
        if float(step) == self._start > self._told:
            denoised = tweedie(self.model.sde, x, t, score)
            first = self._start == 0
            self._learnt = (self.t_max if first else t, self._first if first else x, denoised)
            if not self._adaptive:
                self._tell()
        return score

    def _tell(self) -> None:
        assert self._learnt is not None
        self._watch.reached(*self._learnt)
        self._told = self._start


class WatchedBrownian:
    """A Brownian motion that tells, when it is asked for an interval, where that starts."""

    def __init__(self, brownian: Brownian, tell: Callable[[float], None]) -> None:
        self.shape, self.levy_area_approximation = brownian.shape, brownian.levy_area_approximation
        self._brownian, self._tell = brownian, tell

    def __call__(self, a: Tensor | float, b: Tensor | float, return_U: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        self._tell(float(a))
        return self._brownian(a, b, return_U)


def _power(sde: SDE, t: Tensor) -> Tensor:
    """Return `sqrt(alpha^2 + sigma^2)`."""
    return (sde.alpha(t) ** 2 + sde.sigma(t) ** 2).sqrt()
