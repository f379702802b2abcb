r"""Accurate trajectories of the probability flow, which samplers are tuned to.

In the axes of the Gaussian that the data look like, `z_i = y_i / q_i` (see `solvers.fast.default`) stands still where
the data are Gaussian. So `z(v)` is smooth, and known between the nodes of a fine solution by the cubic polynomial
through the four nearest; and where it bends, `z''(v)`, is where a sampler needs its calls.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from score_sde.common.gaussian import Gaussian, fit_gaussian, isotropic
from score_sde.sde import SDE
from score_sde.solvers.base import Model
from score_sde.solvers.fast.axes import InAxes
from score_sde.solvers.fast.default import (
    Warp,
    in_own_axes,
    recommended_table,
    recommended_times,
    rule_for,
    warp,
)
from score_sde.solvers.fast.table import integrate, run_steps, steps_of, which_scale
from score_sde.solvers.quadrature import lagrange

# Nodes over which the bending is averaged.
_SMOOTH = 9


class Trajectories(NamedTuple):
    """Trajectories of the probability flow, from `T` to `sigma = 0`.

    Attributes:
        latents: the states at `T` where they begin, `(M, *dims)`.
        nodes: `v` at their nodes, rising, float64, `(n,)`.
        z: whitened states at the nodes, `(n, M, *dims)`.
        end: their ends, in the Gaussian's axes, `(M, *dims)`.
        gaussian: in whose axes they are.
        variable: the function `v` of `rho`.
    """

    latents: Tensor
    nodes: Tensor
    z: Tensor
    end: Tensor
    gaussian: Gaussian
    variable: Warp

    def state(self, rho: Tensor) -> Tensor:
        """Return `y` where the noise is `rho` `()`, in the Gaussian's axes; shape of `latents`."""
        if rho == 0:
            return self.end
        v = self.variable(rho.detach()).clamp(self.nodes[0], self.nodes[-1])
        first = int((torch.searchsorted(self.nodes, v) - 2).clamp(0, len(self.nodes) - 4))
        near = self.nodes[first : first + 4]
        z = sum(float(lagrange(near, j, v)) * self.z[first + j] for j in range(4))
        return z * root_variance(self.gaussian, rho, self.latents)

    def part(self, rows: slice) -> Trajectories:
        """Return some of these trajectories."""
        return self._replace(latents=self.latents[rows], z=self.z[:, rows], end=self.end[rows])

    def bending(self) -> Tensor:
        """Return the size of `z''(v)` at the nodes, in units of the ends, in the mean of roots over trajectories."""
        step = float(self.nodes.diff().mean())
        scale = spread(self.gaussian.scales, self.gaussian, self.latents)
        second = (self.z[k - 1] - 2 * self.z[k] + self.z[k + 1] for k in range(1, len(self.nodes) - 1))
        sizes = ((difference * scale).flatten(1).norm(dim=1).cpu().double() for difference in second)
        bends = [size.sqrt().mean() ** 2 for size in sizes]
        inner = torch.stack(bends) / step**2
        half = _SMOOTH // 2
        padded = torch.cat([inner[:1].expand(half + 1), inner, inner[-1:].expand(half + 1)])
        return padded.unfold(0, _SMOOTH, 1).mean(1)


def spread(values: Tensor, gaussian: Gaussian, like: Tensor) -> Tensor:
    """Return what each number of a state like `like` has, of what a Gaussian's scales have, `(S,)`."""
    return values.to(like)[which_scale(gaussian, like)]


def root_variance(gaussian: Gaussian, rho: Tensor, like: Tensor) -> Tensor:
    """Return `q = sqrt(rho^2 + c^2)` of each number of a state."""
    return spread(torch.sqrt(rho**2 + gaussian.scales**2), gaussian, like)


@torch.no_grad()
def follow(model: Model, latents: Tensor, gaussian: Gaussian, num_steps: int) -> Trajectories:
    """Solve from `latents` `(M, *dims)` by so many steps, and write the trajectories down."""
    sde: SDE = model.sde
    rule = rule_for(max(num_steps, 16), known=True)._replace(free=False)
    times = recommended_times(sde, num_steps, sde.t_min, True, gaussian, rule)
    table = recommended_table(sde, times, None, gaussian, rule)
    nodes, variable, there = sde.at(times), warp(gaussian, rule), InAxes(model, gaussian, latents)
    z: list[Tensor] = []

    def reached(k: int, u: Tensor) -> None:
        z.append(u / (float(nodes.alpha[k]) * root_variance(gaussian, nodes.rho[k], latents)))

    steps, u = steps_of(table, sde), there.turned(latents, float(nodes.alpha[0]))
    which = which_scale(gaussian, latents)
    end = run_steps(steps, table.prediction, there, u, reached=reached, which=which)
    return Trajectories(latents, variable(nodes.rho), torch.stack(z), end, gaussian, variable)


@torch.no_grad()
def measure_gaussian(model: Model, latents: Tensor, data_std: float, num_steps: int) -> Gaussian:
    """Return the Gaussian that a model's samples look like, for models that do not know that of their data."""
    rule = rule_for(num_steps, known=False)
    gaussian = isotropic(data_std)
    times = recommended_times(model.sde, num_steps, model.sde.t_min, True, gaussian, rule)
    ends = integrate(in_own_axes(recommended_table(model.sde, times, None, gaussian, rule)), model, latents)
    return fit_gaussian(ends.cpu()) or gaussian


def equal_shares(nodes: Tensor, density: Tensor, count: int) -> Tensor:
    """Return the `count - 1` inner ends of `count` stretches between the nodes that have equal shares of a density."""
    shares = torch.cat([nodes.new_zeros(1), ((density[1:] + density[:-1]) / 2 * nodes.diff()).cumsum(0)])
    wanted = shares[-1] * torch.arange(1, count, dtype=torch.float64) / count
    after = torch.searchsorted(shares, wanted).clamp(1, len(nodes) - 1)
    inside = (wanted - shares[after - 1]) / (shares[after] - shares[after - 1])
    return nodes[after - 1] + inside * (nodes[after] - nodes[after - 1])
