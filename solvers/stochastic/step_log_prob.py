r"""Log-probabilities of a solver's steps, for fine-tuning by reinforcement and for importance sampling.

A stochastic solver is a chain. From `x_0` at `T` (the latents) it goes to states `x_1, …, x_K`, each of which is
Gaussian given those before it,

    log p(x_{k+1} | x_k, x_{k-1}, …) = log N(x_{k+1}; a_k x_k + sum_j b_kj F_j, c_k^2 I),

`F_j` being the model's outputs at the states before: one of them, or the last few, of a multistep method. States are
counted where there is noise. Stages inside a step, and steps without noise before one that has some (`default`, `heun`
with churn), are part of the next mean. What follows `x_K` (the denoising, from `t_min` to `sigma = 0`, and whatever
steps before it have no noise) makes the sample a function of `x_K` and has no density, under any model.

`sample_path` draws such a path, and `step_log_prob` says what another model, or a later version of the same, thinks of
it. Of two models `sum_k log p - log p'` is the log of the importance ratio of their paths, and

    KL(p(x_{k+1} | …), p'(x_{k+1} | …)) = |mean - mean'|^2 / (2 c_k^2)

(Black et al. 2024, arXiv:2305.13301, equation 6; Fan et al. 2023, arXiv:2305.16381, for the second.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.noise import Stream, seeds_from_generator
from score_sde.solvers.base import Model, Solver, States, as_states
from score_sde.solvers.transitions import Arrived, Transition, TransitionNoise


class SampledPath(NamedTuple):
    """A path that was sampled.

    Attributes:
        states: the states `x_0`, that at `T`, to `x_K`, each as it was after its noise; `(K + 1, B, *dims)`.
        times: their times, `(K + 1,)`, float64, on the CPU. They may repeat, as where a corrector follows a predictor.
        log_prob: `log p(x_{k+1} | …)` in nats, `(B, K)`, float64, without gradients.
        x: the samples that the path ends in, `(B, *dims)`.
        nfe: number of batched network calls.
    """

    states: Tensor
    times: Tensor
    log_prob: Tensor
    x: Tensor
    nfe: int


class StepLogProb(NamedTuple):
    """What a model thinks of the steps of a path.

    Attributes:
        log_prob: `log p(x_{k+1} | …)` in nats, `(B, K)`, float64.
        mean: means of the steps, `(K, B, *dims)`.
        std: their standard deviations `c_k`, `(K,)`, float64, on the CPU; of a model that knows the variances of
            steps (`solvers.variances`) those of each number, `(K, B, *dims)`, in the dtype and on the device of `mean`.
    """

    log_prob: Tensor
    mean: Tensor
    std: Tensor


@torch.no_grad()
@checked
def sample_path(
    solver: Solver,
    model: Model,
    x_T: States,
    *,
    seeds: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
) -> SampledPath:
    """Sample as `solver(model, x_T, …)` does, and write down the path: its states and the log-probabilities of steps.

    Args:
        solver: a solver of which each step is Gaussian, given the states before.
        model: gives the score and the denoised mean.
        x_T: latents `(B, *dims)`.
        seeds: one an example: as of a solver, with the same noise.
        generator: gives the seeds where they are left out.

    Raises:
        UserError: the solver's steps are no Gaussians, or have no noise; or as a call of the solver.
    """
    _check(solver, model)
    known_seeds = seeds_from_generator(x_T.shape[0], generator) if seeds is None else list(seeds)
    written: list[TransitionNoise] = []

    def draw(stream: Stream) -> TransitionNoise:
        written.append(TransitionNoise(known_seeds, stream))
        written[-1].check_count(x_T.shape[0])
        return written[-1]

    solution = solver.walk(model, x_T, draw)
    steps = [step for noise in written for step in noise.transitions]
    return SampledPath(
        torch.stack([x_T, *(step.x for step in steps)]),
        torch.stack([torch.tensor(model.sde.T, dtype=torch.float64), *(step.t for step in steps)]),
        _together(steps).log_prob,
        solution.x,
        solution.nfe,
    )


@checked
def step_log_prob(solver: Solver, model: Model, states: Tensor, times: Tensor) -> StepLogProb:
    """Return the log-probabilities of a path's steps under a model, differentiable by the states and by the parameters
    of the model.

    The model is asked at these states, up to the last but one, so gradients go back through one step each (or as many
    as a multistep method remembers). They take memory for all steps: a large batch is best taken in parts.

    Args:
        solver: the solver that the path was sampled with, or one of the same times, as with another `eta`.
        model: any model of the same process.
        states: those of a path from `T` on, as `SampledPath` has them, or its first ones; `(K + 1, B, *dims)`.
        times: theirs, `(K + 1,)`.

    Raises:
        UserError: the solver's steps are no Gaussians, or have no noise; or the times are none of this solver's.
    """
    _check(solver, model)
    if states.ndim < 3 or len(states) < 2 or times.shape != states.shape[:1]:
        raise UserError(
            "a path has states (K + 1, B, *dims) and times (K + 1,), with at least one step, not "
            f"{tuple(states.shape)} and {tuple(times.shape)}"
        )
    states = as_states("states", states.flatten(0, 1)).reshape(states.shape)
    noise = TransitionNoise([], "solver", states[1:], times[1:])
    try:
        solver.walk(model, states[0], lambda stream: noise)
    except Arrived:
        return _together(noise.transitions)
    raise UserError(
        f"this path has {len(states) - 1} steps with noise, of which this solver takes {len(noise.transitions)}: take "
        "the solver that the path was sampled with"
    )


def _together(steps: list[Transition]) -> StepLogProb:
    log_prob, mean = torch.stack([step.log_prob for step in steps], dim=1), torch.stack([step.mean for step in steps])
    if any(isinstance(step.std, Tensor) for step in steps):
        own = torch.stack([torch.as_tensor(step.std).to(step.mean).expand_as(step.mean) for step in steps])
        return StepLogProb(log_prob, mean, own)
    return StepLogProb(log_prob, mean, torch.tensor([step.std for step in steps], dtype=torch.float64))


def _check(solver: Solver, model: Model) -> None:
    reason = solver.no_step_density(model)
    if reason:
        raise UserError(f"no step log-probabilities: {reason}")
