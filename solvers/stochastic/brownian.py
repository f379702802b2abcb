"""Brownian motion for torchsde, one path an example.

torchsde asks `bm(a, b)` for the increment `W = w(b) - w(a)`, and with `return_U=True` also for `U = ∫_a^b (w - w(a))
dt`, which is Gaussian with `U = (b - a) (W / 2 + H)`, `H ~ N(0, (b - a) / 12)` independent of `W`. Its own
`BrownianInterval` draws a whole batch from one seed; these draw example `i` from seed `i`. Shapes are `(B, d)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from score_sde.common.noise import SampleNoise, stream_seed

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


class NoIncrements:
    """A path that stays where it is, by which a step is its own mean."""

    levy_area_approximation = SPACE_TIME

    def __init__(self, like: Tensor) -> None:
        self.shape = like.shape
        self._increment = torch.zeros_like(like)

    def __call__(self, a: Tensor | float, b: Tensor | float, return_U: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        return (self._increment, self._increment) if return_U else self._increment


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


# One path an example, of either kind.
Brownian = FreshIncrements | StackedIntervals
