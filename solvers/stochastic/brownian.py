"""Brownian motion for torchsde, one path an example.

torchsde asks `bm(a, b)` for the increment `W = w(b) - w(a)`, and with `return_U=True` also for `U = ∫_a^b (w - w(a))
dt`, which is Gaussian with `U = (b - a) (W / 2 + H)`, `H ~ N(0, (b - a) / 12)` independent of `W`. Its own
`BrownianInterval` draws a whole batch from one seed; these draw example `i` from seed `i`. Shapes are `(B, d)`.

Brownian motion revealed as an adaptive solver asks for it, each example at its own times.

A step that is rejected has already shown the increment over its whole length. Drawing a new one for the shorter step
would prefer paths on which the error was small, and bias the samples. Instead the known increment `W` over `tau` is
split at `h < tau` by the Brownian bridge,

    w(h) | w(tau) = W   ~   N(h/tau W, h (1 - h/tau)),

and what is left over `tau - h` is kept for later steps (rejection sampling with memory, Rackauckas & Nie 2017,
doi:10.3934/dcdsb.2017133). A step does not cross the nearest time at which the path is already known.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from score_sde.common.noise import SampleNoise, stream_seed
from score_sde.sde.marginals import expand

SPACE_TIME = "space-time"


class FreshIncrements:
    """Increments for fixed steps, where each interval is asked for once, in order: nothing needs to be remembered."""

    levy_area_approximation = SPACE_TIME

    def __init__(self, like: Tensor, noise: SampleNoise) -> None:
        self.shape = like.shape
        self._like = like
        self._noise = noise

    def __call__(self, a: Tensor | float, b: Tensor | float, return_U: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        duration = float(b - a)
        increment = math.sqrt(duration) * self._noise.normal(self._like)
        if not return_U:
            return increment
        area = math.sqrt(duration / 12) * self._noise.normal(self._like)
        return increment, duration * (increment / 2 + area)


class StackedIntervals:
    """Increments for adaptive steps: one `BrownianInterval` an example, which can be asked again after a rejection.

    They are drawn on the CPU, so that they are the same on every device.
    """

    def __init__(self, like: Tensor, noise: SampleNoise, end: float, space_time: bool) -> None:
        from torchsde import BrownianInterval

        self.shape = like.shape
        self.levy_area_approximation = SPACE_TIME if space_time else "none"
        self._device = like.device
        self._intervals = [
            BrownianInterval(
                t0=0.0,
                t1=end,
                size=(1, like.shape[1]),
                dtype=like.dtype,
                entropy=stream_seed(seed, "brownian"),
                levy_area_approximation=self.levy_area_approximation,
            )
            for seed in noise.seeds
        ]

    def __call__(self, a: Tensor | float, b: Tensor | float, return_U: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if not return_U:
            return torch.cat([interval(a, b) for interval in self._intervals]).to(self._device)
        increments, areas = zip(*(interval(a, b, return_U=True) for interval in self._intervals), strict=True)
        return torch.cat(increments).to(self._device), torch.cat(areas).to(self._device)


# A step this close to the nearest known time is taken to end there, so that rounding leaves no slivers.
_ROUNDING = 1e-6


class BrownianPath:
    """One Brownian path an example, with a stack of its known future increments, the nearest on top.

    Args:
        like: gives the shape `(B, *dims)`, dtype and device of increments.
        noise: one generator an example; one draw is taken from each at every proposal.

    Durations are float64 and lie on the CPU.
    """

    def __init__(self, like: Tensor, noise: SampleNoise) -> None:
        self._noise = noise
        self._rows = torch.arange(like.shape[0])
        self._depth = torch.zeros_like(self._rows)
        self._durations = torch.zeros((1, like.shape[0]), dtype=torch.float64)
        self._increments = torch.zeros_like(like).unsqueeze(0)

    def propose(self, duration: Tensor) -> tuple[Tensor, Tensor]:
        """Return the increment over the next `duration` `(B,)`, or up to the nearest known time if that comes sooner.

        Returns:
            The duration `(B,)` and the increment `(B, *dims)`. They stay the path's next piece until they are accepted.
        """
        nothing_known = self._depth == 0
        top = (self._depth - 1).clamp(min=0)
        ahead = torch.where(nothing_known, torch.inf, self._durations[top, self._rows])
        whole = ahead <= duration * (1 + _ROUNDING)
        device = self._increments.device
        ahead_increment = self._increments[top.to(device), self._rows.to(device)]

        fraction = torch.where(whole, 1.0, duration / ahead)
        std = (duration * (1 - fraction)).sqrt()
        z = self._noise.normal(ahead_increment)
        bridge = expand(fraction, z) * ahead_increment + expand(std, z) * z
        increment = torch.where(whole.to(device).reshape(-1, *(1,) * (z.ndim - 1)), ahead_increment, bridge)

        split = ~whole & ~nothing_known
        self._write(top, split, ahead - duration, ahead_increment - increment)
        duration = torch.where(whole, ahead, duration)
        self._depth = torch.where(whole, self._depth, self._depth + 1)
        self._write(self._depth - 1, ~whole, duration, increment)
        return duration, increment

    def accept(self, accepted: Tensor) -> None:
        """Move past the last proposal, where `accepted` `(B,)` is true."""
        self._depth = self._depth - accepted.long()

    def _write(self, level: Tensor, where: Tensor, duration: Tensor, increment: Tensor) -> None:
        """Set the entries at `level` `(B,)` of the stacks, for the examples in `where` `(B,)`."""
        if int(level.max()) >= len(self._durations):
            self._durations = torch.cat([self._durations, torch.zeros_like(self._durations[:1])])
            self._increments = torch.cat([self._increments, torch.zeros_like(self._increments[:1])])
        rows = self._rows[where]
        self._durations[level[where], rows] = duration[where]
        device = self._increments.device
        self._increments[level[where].to(device), rows.to(device)] = increment[where.to(device)]
