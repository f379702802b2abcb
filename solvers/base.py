r"""The contract between models, solvers and those who use them.

A model gives the score `∇ log p_t(x)` and the denoised mean `E[x_0 | x_t = x]` of a process (`Model`). A solver takes a
model and states `x_T` at time `T` and gives samples (`Solution`):

    solution = solver(model, x_T, seeds=range(len(x_T)))

Some solvers can be taken apart into steps (`Steps`), each of which depends on nothing but the state it starts from.
Between such steps a state may be changed, or a step be done again. Multistep methods, which remember earlier outputs,
and adaptive ones, whose steps are their own, cannot be taken apart. The states that any solver goes through can be
looked at (`solvers.trajectory`).

States have shape `(B, *dims)`, and solvers keep their dtype and device. Times have shape `()` or `(B,)`, are float64,
and lie on the CPU (see `sde.marginals`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.gaussian import Gaussian
from score_sde.common.noise import SampleNoise, Stream, seeds_from_generator
from score_sde.common.score import no_score
from score_sde.sde import SDE, Marginals
from score_sde.solvers.standard_normal import StandardNormal
from score_sde.solvers.trajectory import State, Watch


class Model(Protocol):
    """All that a solver knows of a model: a trained network and a `GaussianMixture` are the same thing to it.

    `x` has shape `(B, *dims)`, `t` shape `()` or `(B,)`; results have the shape of `x`.
    """

    @property
    def sde(self) -> SDE:
        """The forward process is the one whose densities the model knows."""

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x)`."""

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x]`."""


class Solution(NamedTuple):
    """The result of a solver.

    Attributes:
        x: samples `(B, *dims)`, at `sigma = 0` unless the solver was told to stop at `t_min`.
        nfe: number of batched network calls.
        trajectory: the states from `x_T` to `x`, if they were asked for.
    """

    x: Tensor
    nfe: int
    trajectory: tuple[State, ...] = ()


class Steps(NamedTuple):
    """The steps of a solver, from the state at `T` on.

    Attributes:
        ends: where steps begin and end, one more than there are steps; the last at `sigma = 0` if they end there.
        calls: network calls of each.
        step: called with a step's number and the state `(B, *dims)` it starts from; gives that at its end.
    """

    ends: Marginals
    calls: list[int]
    step: Callable[[int, Tensor], Tensor]

    def run(self, x: Tensor, watch: Watch | None = None) -> Solution:
        """Take all steps, one after the other, from `x` at `T`; of states at one time the watch is told of the last."""
        for k in range(len(self.calls)):
            if watch is not None and self.ends.t[k] != self.ends.t[k + 1]:
                watch.reached(self.ends.t[k], x)
            x = self.step(k, x)
        if watch is not None:
            watch.reached(self.ends.t[-1], x, x if self.ends.sigma[-1] == 0 else None)
        return Solution(x, sum(self.calls))


def as_states(name: str, x: Tensor) -> Tensor:
    """Return states `x` `(B, *dims)` as solvers take them: whole numbers become torch's default dtype, others keep
    theirs.

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


# A parameter of these is given tensors or arrays; see `common.arguments`.
States = Annotated[Tensor, as_states]


# Gives the noise for a purpose, when it is asked for: one generator for each example of the batch.
Draw = Callable[[Stream], SampleNoise]


class Solver(ABC):
    """What turns latents into samples: `solver(model, x_T, seeds=…)`.

    To add one, write `solve`, and `split` if it can be taken apart. Both are given arguments that have been checked.
    `solve` says `watch.reached(t, x)` of each state before it asks the model there, if there is a `watch`; the model is
    then the watch itself, which hears the answer.
    """

    @torch.no_grad()
    @checked
    def __call__(
        self,
        model: Model,
        x_T: States,
        *,
        seeds: Iterable[int] | None = None,
        generator: torch.Generator | None = None,
        callback: Callable[[State], Any] | None = None,
        trajectory: bool = False,
    ) -> Solution:
        """Solve from the states `x_T` at time `T`.

        Args:
            model: gives the score and the denoised mean; is never asked about times outside `[t_min, T]`.
            x_T: latents `(B, *dims)`, as from `model.sde.prior_sample`.
            seeds: one an example: example `i` takes its noise from `seeds[i]` alone. Not used where there is no noise.
            generator: gives the seeds where they are left out; torch's own if it is left out, too.
            callback: called with each `State` that is reached, from `x_T` to the solution, as soon as the model was
                asked there. It costs no network call and changes no number.
            trajectory: whether the solution has these states, too.

        Raises:
            UserError: an argument is none of these, the process cannot be solved, or the solution not be followed.
        """
        draw = partial(sample_noise, x_T, seeds, generator)
        if callback is None and not trajectory:
            return self.solve(model, x_T, draw)
        states: list[State] = []

        def tell(state: State) -> None:
            if trajectory:
                states.append(state)
            if callback is not None:
                callback(state)

        watch = Watch(model, tell)
        solution = self.solve(watch, x_T, draw, watch)
        watch.finish()
        return solution._replace(trajectory=tuple(states))

    @checked
    def steps(
        self,
        model: Model,
        x_T: States,
        *,
        seeds: Iterable[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Steps:
        """Take the solver apart; arguments as of a call, of which the result is, to rounding, that of all steps.

        Raises:
            UserError: as a call, or the solver cannot be taken apart.
        """
        return self.split(model, x_T, partial(sample_noise, x_T, seeds, generator))

    @property
    def chooses_steps(self) -> bool:
        """Whether the number of network calls depends on the model and on its states."""
        return False

    def calls(self, sde: SDE) -> int | None:
        """Count the batched network calls under a process, on a model that costs nothing; None if it chooses its steps.

        Raises:
            UserError: the process cannot be solved so.
        """
        if self.chooses_steps:
            return None
        return self(StandardNormal(sde), torch.zeros(1, 1, dtype=torch.float64), seeds=[0]).nfe

    def no_step_density(self, model: Model) -> str:
        """Return in one line why steps on this model have no log-probabilities; nothing if `walk` takes them by
        `transitions.take`, and some with noise."""
        return f"{type(self).__name__} does not say that its steps are Gaussian: take a solver such as ddim with eta"

    def walk(self, model: Model, x_T: Tensor, draw: Draw) -> Solution:
        """Return the solution, to rounding, by steps that are each taken by themselves; arguments as of `solve`."""
        return self.solve(model, x_T, draw)

    @abstractmethod
    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        """Return the solution; `draw` gives the noise, asked only where there is any; `watch` is told of states."""

    def split(self, model: Model, x_T: Tensor, draw: Draw) -> Steps:
        """Return the steps; arguments as of `solve`."""
        raise UserError(
            "this solver has no steps between which states can be changed: take one of single steps, as ddim, heun, "
            "dpmpp_2s, pc or sde"
        )


def arrive(model: Model, x: Tensor, t: Tensor, nfe: int, *, denoise: bool, watch: Watch | None = None) -> Solution:
    """Return the solution of a solver that is at its last time `t` after `nfe` calls, with state `x` `(B, *dims)`: this
    state, or its denoised mean by one call more."""
    if watch is not None:
        watch.reached(t, x)
    if not denoise:
        return Solution(x, nfe)
    x = model.denoise(x, t)
    if watch is not None:
        watch.reached(0.0, x, x)
    return Solution(x, nfe + 1)


def leave_noise(model: Model, x_T: Tensor, watch: Watch | None = None) -> tuple[Tensor, int]:
    """Return the states at `t_max`, shape of `x_T`, and the calls it took: none, unless the process ends in nothing but
    noise.

    From there the flow's step to so little signal is `alpha D + sigma z`, `z = x_T / sigma(T)`, but for `alpha^2`.
    """
    sde = model.sde
    if not sde.ends_in_noise:
        return x_T, 0
    if watch is not None:
        watch.reached(sde.T, x_T)
    alpha, sigma = sde.at(sde.t_max).to(x_T)
    data = model.denoise(x_T, torch.tensor(sde.T, dtype=torch.float64))
    return alpha * data + sigma / sde.at(sde.T).to(x_T)[1] * x_T, 1


def sample_noise(
    x: Tensor, seeds: Iterable[int] | None, generator: torch.Generator | None, stream: Stream = "solver"
) -> SampleNoise:
    """Return a source of noise with one generator for each example of `x` `(B, *dims)`.

    Raises:
        UserError: the number of seeds is not the batch size, or they are no seeds.
    """
    noise = SampleNoise(seeds_from_generator(x.shape[0], generator) if seeds is None else seeds, stream)
    noise.check_count(x.shape[0])
    return noise


def gaussian_of_model(model: object) -> Gaussian | None:
    """Return the Gaussian that the data of a model look like, if it knows it: its attribute `gaussian`."""
    return getattr(model, "gaussian", None)


def noise_of(model: Model, x: Tensor, here: Marginals) -> Tensor:
    """Return `E[eps | x_t = x]`, shape of `x`, at marginals of shape `()`: by the score, or by the denoised mean of a
    model that has none, which is a flow."""
    alpha, sigma = here.to(x)
    if no_score(model):
        return (x - alpha * model.denoise(x, here.t)) / sigma
    return model.score(x, here.t) * -sigma


def check_density(model: object) -> None:
    """Raise `UserError` if a model says that its score is not that of a diffused density, and why: `no_density`."""
    reason = getattr(model, "no_density", "")
    if reason:
        raise UserError(f"this model has no log-likelihood: {reason}")
