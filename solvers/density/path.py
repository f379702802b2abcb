r"""The equation whose solution is a log-density: the flow's state with the integrals of its divergence beside it.

The integrals are divided by the dimension `d`; of Hutchinson's probes each has its own. The state is the flow's `z`
(`solvers.ode.flow`), or what is left of it beside a Gaussian (`solvers.density.coordinates`).

Of a model of some of the numbers of each example (`models.part`) the density is that of these. The others begin at 0
and stay there: they add nothing to the integral, and are left out of all else. Tolerances hold for nats per modelled
number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.common.gaussian import Gaussian
from score_sde.solvers.density.coordinates import GaussianCoordinates
from score_sde.solvers.density.divergence import Divergence
from score_sde.solvers.ode.flow import ProbabilityFlow
from score_sde.solvers.ode.runge_kutta import root_mean_square

# A log-density at T: `(B, *dims)` to `(B,)`, in nats.
LogDensity = Callable[[Tensor], Tensor]


class DensityPath:
    """States `(B, d + P)` are followed from data to noise, and `P` log-densities follow from the last of them.

    Args:
        flow: the flow.
        x: where it begins, `(B, *dims)`.
        ends: the times where it begins and ends, `(2,)`.
        make_divergence: makes the divergence of states such as these, and says which probes it has.
        gaussian: the Gaussian whose flow need not be followed, if any.
        modelled: which numbers of the examples are modelled, bool, shape of `x`; None for all.
    """

    def __init__(
        self,
        flow: ProbabilityFlow,
        x: Tensor,
        ends: Tensor,
        make_divergence: Callable[[Tensor], tuple[Divergence, Tensor | None, int]],
        gaussian: Gaussian | None = None,
        modelled: Tensor | None = None,
    ) -> None:
        x = x if modelled is None else torch.where(modelled, x, 0)
        self.flow, self._ends, self._positions = flow, ends, flow.position(ends)
        z = flow.normalise(x, ends[0])
        self._divergence, probes, self.num_integrals = make_divergence(z)
        self.dimension = z.shape[1]
        # How many numbers of each example are modelled, `()` or `(B,)`.
        self.count = torch.full((), self.dimension) if modelled is None else modelled.flatten(1).sum(1)
        self.coordinates = None
        if gaussian is not None and GaussianCoordinates.fit(gaussian, self.dimension):
            self.coordinates = GaussianCoordinates(flow, gaussian, z, probes)
        if self.coordinates is not None:
            z = self.coordinates.enter(z, self._positions[0])
        self.start = torch.cat([z, z.new_zeros(len(z), self.num_integrals)], dim=1)

    @property
    def which(self) -> Tensor:
        """Which of the Gaussian's scales each number of the state has, `(d,)`; 0 without one."""
        if self.coordinates is None:
            return torch.zeros(self.dimension, dtype=torch.int64)
        return self.coordinates.which

    def derivative(self, s: Tensor, state: Tensor) -> Tensor:
        """Return the slope of a state at `s` `()` or `(B,)`, by one call."""
        w, coordinates = state[:, : self.dimension], self.coordinates
        z = w if coordinates is None else coordinates.leave(w, s)
        slope, traces = self._divergence(lambda z: self.flow(s, z), z)
        if coordinates is not None:
            slope, traces = coordinates.residual(s, w, slope, traces)
        return torch.cat([slope, traces / self.dimension], dim=1)

    def error_norm(self, error: Tensor) -> Tensor:
        """Return the larger of the errors of state and integral of each example, `(B,)`."""
        of_state, of_integrals = error[:, : self.dimension], error[:, self.dimension :]
        if not self.count.ndim:
            return torch.maximum(root_mean_square(of_state), of_integrals.mean(1).abs())
        share = (self.count / self.dimension).to(error)
        return torch.maximum(root_mean_square(of_state) / share.sqrt(), of_integrals.mean(1).abs() / share)

    def latents(self, state: Tensor) -> Tensor:
        """Return where the flow is at its end, `(B, *dims)`."""
        w, at = state[:, : self.dimension], self._positions[1]
        return self.flow.denormalise(w if self.coordinates is None else self.coordinates.leave(w, at), self._ends[1])

    def log_prob(self, state: Tensor, at_end: Tensor) -> Tensor:
        """Return the log-density by each probe `(B, P)`, in nats, from that at the end, `(B,)`."""
        start, end = self._positions
        integrals = state[:, self.dimension :]
        if self.coordinates is not None:
            gained = self.coordinates.log_volume(end) - self.coordinates.log_volume(start)
            integrals = integrals + gained / self.dimension
        log_norm = self.flow.log_norm(self._ends)
        grown = (log_norm[1] - log_norm[0]).to(state)
        if not self.count.ndim:
            return at_end[:, None] + self.dimension * (integrals + grown)
        # The prior's density of numbers that are not modelled, which are 0 there, is taken off.
        left_out = (self.dimension - self.count).to(state) * self.flow.sde.prior_log_prob(state.new_zeros(1, 1))
        return (at_end - left_out + self.count.to(state) * grown)[:, None] + self.dimension * integrals
