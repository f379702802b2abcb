r"""Log-likelihood by the probability flow ODE (Song et al. 2021, arXiv:2011.13456, section 4.3 and appendix D.2).

Along a solution `z(s)` of `dz/ds = F(s, z)` the density changes by `d log p / ds = -div F`, so that

    log p_{t_min}(x) = log p_T(x_T) + ∫ div F ds + d log( r(T) / r(t_min) )

with the integral from `t_min` to `T`, and `z = x / r` the state of `solvers.ode.flow`. The integral, divided by
`d`, is followed beside the state and controlled with it: an example's error is the larger of the state's root mean
square and the integral's, so tolerances hold for nats per dimension. With several probes there are as many integrals,
and their mean is what is controlled.

Derivatives of the log-likelihood come from the adjoint equation (Chen et al. 2018, arXiv:1806.07366), solved back from
`T`, so that no trajectory is stored; by methods with fixed steps they are those of what is returned, to rounding, and
the states of the steps are stored.

Where the model knows the Gaussian that its data look like, `adaptive_adams` follows the rest (see
`solvers.density.coordinates`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError, choose
from score_sde.common.noise import SampleNoise
from score_sde.sde import SDE
from score_sde.sde.marginals import on_host
from score_sde.solvers.base import Model, States, check_density, gaussian_of_model, sample_noise
from score_sde.solvers.density.divergence import (
    Divergence,
    exact_divergence,
    hutch_plus_plus_divergence,
    hutchinson_divergence,
)
from score_sde.solvers.density.path import DensityPath, LogDensity
from score_sde.solvers.density.tuned import TUNED, TunedLikelihood, tuned_flow
from score_sde.solvers.grids import Grid
from score_sde.solvers.ode.flow import ProbabilityFlow
from score_sde.solvers.ode.integrator import ADAPTIVE_ADAMS, Integrator
from score_sde.solvers.ode.solver import check_fixed_steps, integration_nodes
from score_sde.solvers.options import MOST_STEPS, check_between
from score_sde.solvers.process import last_time

PROBES: dict[str, Callable[[SampleNoise, Tensor], Tensor]] = {
    "rademacher": SampleNoise.rademacher,
    "gaussian": SampleNoise.normal,
}
DIVERGENCES = ("exact", "hutchinson", "hutch++")


class Likelihood(NamedTuple):
    """The result of `log_likelihood`.

    Attributes:
        log_prob: log-density of each example under `p_{t_min}`, `(B,)`, in nats.
        nfe: batched network calls; a Jacobian product belongs to its call.
        latents: where each example's trajectory ends at `T`, shape of the examples.
        by_probe: `log_prob` as each of Hutchinson's probes alone has it, `(B, num_probes)`; otherwise `(B, 1)`.
    """

    log_prob: Tensor
    nfe: int
    latents: Tensor
    by_probe: Tensor


@checked
def log_likelihood(
    model: Model,
    x: States,
    *,
    divergence: str = "hutchinson",
    num_probes: int = 1,
    probe: str = "rademacher",
    prior: LogDensity | None = None,
    t_min: float | None = None,
    seeds: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
    method: str = ADAPTIVE_ADAMS,
    rtol: float | None = None,
    atol: float | None = None,
    num_steps: int | None = None,
    grid: Grid | None = None,
    options: Mapping[str, Any] | None = None,
    per_example: bool = True,
    differentiable: bool = False,
    table: TunedLikelihood | None = None,
) -> Likelihood:
    """Return the log-density of `x` `(B, *dims)` under the model's `p_{t_min}`; of a part, if it is a model of one.

    Args:
        model: gives the score.
        x: examples at `t_min`.
        divergence: `exact` (d Jacobian products a call), `hutchinson` (one a probe; unbiased in `log_prob`) or
            `hutch++` (three a probe; unbiased).
        num_probes: random vectors an example; the same ones along the whole trajectory.
        probe: `rademacher` (random signs) or `gaussian`.
        prior: log-density at `T`; the process's standard prior if left out. See also `matched_prior`.
        t_min: where the trajectory begins; the process's own if left out.
        seeds: one an example, for its probes; drawn from `generator` if left out.
        generator: source of seeds.
        method: as for `ODE`, like the following; `adaptive_adams` follows what the model is beside the Gaussian that
            its data look like, if it knows one.
        rtol: relative tolerance; 1e-7 for float64; for float32 1.5e-3, and 1e-3 by other methods.
        atol: absolute tolerance, in nats per dimension and in the normalised state; likewise.
        num_steps: number of steps, for methods with fixed ones; if left out, that of the grid.
        grid: the times where they end, as a name or a list.
        options: further options of the method.
        per_example: whether adaptive Runge-Kutta methods take steps of their own for each example.
        differentiable: whether `log_prob` can be differentiated, by `x` and by the parameters of `model`, if it is a
            module; steps are then chosen for the batch. `nfe` does not count calls of the way back.
        table: for method `tuned`: what `tune_likelihood` made; it has times and steps of its own.

    Raises:
        UserError: an option is unknown or out of range, the trajectory cannot be followed, the model's score is not
            that of a diffused density (`check_density`), or the table was made for another model.
    """
    check_density(model)
    modelled: Tensor | None = getattr(model, "modelled", None)
    if modelled is not None and prior is not None:
        raise UserError("a prior of one's own is for whole examples, and this model is one of a part: leave it out")

    def make_divergence(z: Tensor) -> tuple[Divergence, Tensor | None, int]:
        return divergence_of(divergence, z, num_probes, probe, seeds, generator)

    if method == TUNED:
        chosen = {"rtol": rtol, "atol": atol, "num_steps": num_steps, "grid": grid, "options": options}
        table = _checked_table(table, model, x, t_min, [name for name, value in chosen.items() if value])
        if differentiable:
            raise UserError("method tuned has no derivative: take another method")
        flow = tuned_flow(model, x.shape, float(table.times[0]))
        with torch.no_grad():
            path = DensityPath(flow, x, table.ends, make_divergence, gaussian_of_model(model), modelled)
            return arrived(path, table.follow(path), prior)
    if table is not None:
        raise UserError(f"method {method} takes no table: leave it out, or take method tuned")
    integrator = Integrator(method, rtol, atol, options or {}, per_example)
    flow = ProbabilityFlow(model, x.shape, last_time(model.sde, t_min), integrator.resolution)
    check_fixed_steps(integrator, num_steps, grid)
    nodes, times = integration_nodes(flow, integrator, num_steps, grid)
    gaussian = gaussian_of_model(model) if method == ADAPTIVE_ADAMS and not differentiable else None

    with torch.set_grad_enabled(differentiable):
        path = DensityPath(flow, x, times.flip(0)[[0, -1]], make_divergence, gaussian, modelled)
        state = integrator(
            flow,
            path.derivative,
            path.start,
            nodes.flip(0),
            norm=path.error_norm,
            parameters=_parameters(model) if differentiable else None,
            integrals=path.num_integrals,
        )
        return arrived(path, state, prior)


def _checked_table(
    table: TunedLikelihood | None, model: Model, x: Tensor, t_min: float | None, chosen: list[str]
) -> TunedLikelihood:
    """Return the table, if it fits the model and examples, and nothing was chosen that it does not leave open.

    Raises:
        UserError: it does not, or there is none.
    """
    if table is None:
        raise UserError("method tuned needs table=, as tune_likelihood makes it")
    if chosen:
        raise UserError(f"method tuned has times and steps of its own: leave out {chosen[0]}")
    if last_time(model.sde, t_min) != float(table.times[0]):
        raise UserError(f"this tuned likelihood is for t_min = {float(table.times[0]):g}: tune one for another t_min")
    table.check_fits(model, x)
    return table


def arrived(path: DensityPath, state: Tensor, prior: LogDensity | None) -> Likelihood:
    """Return the likelihood that the last state of a path gives."""
    nfe, latents = path.flow.nfe, path.latents(state)
    at_end = path.flow.sde.prior_log_prob(latents) if prior is None else prior(latents)
    by_probe = path.log_prob(state, at_end)
    return Likelihood(by_probe.mean(1), nfe, latents, by_probe)


@checked
def matched_prior(sde: SDE, mean: Tensor, variance: Tensor) -> LogDensity:
    """Return a prior with the data's mean and variance at `T`: `N(alpha_T mean, alpha_T^2 variance + sigma_T^2)`.

    Args:
        sde: the forward process.
        mean: of the data, shape `dims`, or one that broadcasts to it.
        variance: of the data, for each dimension; likewise.

    Returns:
        The log-density, in nats, as a function of `x` `(B, *dims)`.
    """
    end = sde.at(sde.T)
    mean, variance = end.alpha * on_host(mean), end.alpha**2 * on_host(variance) + end.sigma**2

    def log_prob(x: Tensor) -> Tensor:
        deviation = (x - mean.to(x)) / variance.sqrt().to(x)
        log_density = -0.5 * (deviation**2 + torch.log(2 * math.pi * variance).to(x))
        return log_density.flatten(1).sum(1)

    return log_prob


def divergence_of(
    name: str,
    z: Tensor,
    num_probes: int,
    probe: str,
    seeds: Iterable[int] | None,
    generator: torch.Generator | None,
) -> tuple[Divergence, Tensor | None, int]:
    """Return the divergence of this name, its probes `(P, B, d)` if it is Hutchinson's, and how many it gives."""
    if name not in DIVERGENCES:
        raise UserError(f"no divergence is called {name!r}; there are: {', '.join(DIVERGENCES)}")
    draw = choose("probe", probe, PROBES)
    check_between("num_probes", num_probes, 1, MOST_STEPS)
    if name == "exact":
        return exact_divergence, None, 1
    noise = sample_noise(z, seeds, generator, stream="probe")
    probes = torch.stack([draw(noise, z) for _ in range(num_probes)])
    if name == "hutchinson":
        return hutchinson_divergence(probes), probes, num_probes
    sketch = [draw(noise, z) for _ in range(min(num_probes, z.shape[1]))]
    return hutch_plus_plus_divergence(torch.stack(sketch), probes), None, 1


def _parameters(model: Model) -> tuple[Tensor, ...]:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return tuple(parameter for parameter in parameters if parameter.requires_grad)
