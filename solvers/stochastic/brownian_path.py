"""Brownian motion revealed as an adaptive solver asks for it, each example at its own times.

A step that is rejected has already shown the increment over its whole length. Drawing a new one for the shorter step
would prefer paths on which the error was small, and bias the samples. Instead the known increment `W` over `tau` is
split at `h < tau` by the Brownian bridge,

    w(h) | w(tau) = W   ~   N(h/tau W, h (1 - h/tau)),

and what is left over `tau - h` is kept for later steps (rejection sampling with memory, Rackauckas & Nie 2017,
doi:10.3934/dcdsb.2017133). A step does not cross the nearest time at which the path is already known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.noise import SampleNoise
from score_sde.sde.marginals import expand

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
