r"""Samplers as tables of coefficients, and the one loop that runs them.

With `y = x / alpha` and `rho = sigma / alpha`, every sampler of the fast family asks the model at times `t_0, t_1, …`
and combines linearly: its state, the model's outputs `F_0, F_1, …` so far (noise `eps` or data `D`, which follow from
each other by Tweedie's formula `D = y - rho eps`), and fresh noise `z`,

    x_{k+1} = a_k x_k + sum_{j <= k} b_kj F_j + c_k z_k.

Multistep, singlestep and predictor-corrector methods are all of this form: where a method goes back to an earlier state
(Heun's second stage, UniPC's corrector), the way back is a combination of outputs too. So a sampler *is* its table
`(t, a, b, c)`. It is computed once, in float64, from the grid (`solvers.fast.recorder`); the loop asks the model and
forms linear combinations, nothing else. After `N` grid times `T = t_0 > … > t_{N-1} = t_min` the last step goes from
`t_min` to `sigma = 0`, where the answer is the denoised mean; so a method that asks the model once a step makes `N`
calls.

Where a method draws its noise as if the data were known (`ddim`), a model that knows their variance adds it: `c_k^2`
becomes `c_k^2 + d_k^2 Var[x_0 | x_t]`, with `d_k` the weight of `D` in the step (`solvers.variances`).

Along the axes of the Gaussian that the data look like (`common.gaussian`), a table may have weights for each axis, and
`x` stands for the state there, `u = V^T (x - alpha m)`. Its first output may then be free: at `T` hardly anything of
the data is left in the state, and the Gaussian's answer, which is in the weights already, is the model's but for what
the model answers to `u = 0`: one call, on one example, for a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from score_sde.common.gaussian import Gaussian
from score_sde.common.noise import SampleNoise
from score_sde.common.posterior import Posterior
from score_sde.common.score import no_score
from score_sde.sde import SDE
from score_sde.solvers.base import Model, gaussian_of_model
from score_sde.solvers.fast.axes import InAxes
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.transitions import take
from score_sde.solvers.variances import posterior_of, total_std

# A table takes memory with the square of its steps, 11 GB for these. (The longest ladder published has as many.)
MOST_STEPS_OF_TABLE = 4000


class Table(NamedTuple):
    """A sampler: `x_{k+1} = state_k x_k + sum_j outputs_kj F_{k-j} + noise_k z_k`; all float64.

    Attributes:
        times: when the model is asked, shape `(n,)`.
        state: shape `(n,)`, or `(n, S)` for the scales of a Gaussian.
        outputs: weights of the last `m` outputs, the latest first; shape `(n, m)`, or `(n, m, S)`.
        noise: shape `(n,)`.
        prediction: what `F` is made from: the model's noise `eps` or its denoised data `D`.
        blend: multiple of `x_k` that is added to it, shape `(n,)` or `(n, S)`; zero but for residuals, and `-1 / sigma`
            for noise where nothing of the data is left (`Marginals.gone`): the sum is `-(alpha / sigma) D`.
        end: time of the last state; None for `sigma = 0`.
        gaussian: in whose axes the states are; None if in their own.
        free: whether the first output is that at `u = 0`, for all examples.
        told: times that the model is told, shape `(n,)`; None for those of the states.
        of_data: the weight of `D` in steps whose noise is drawn as if the data were known, shape `(n,)`, elsewhere 0;
            None if there are none.
    """

    times: Tensor
    state: Tensor
    outputs: Tensor
    noise: Tensor
    prediction: Literal["noise", "data"]
    blend: Tensor
    end: Tensor | None = None
    gaussian: Gaussian | None = None
    free: bool = False
    told: Tensor | None = None
    of_data: Tensor | None = None

    @property
    def calls(self) -> int:
        """The number of calls of the model for a batch is that of the times, less the free one."""
        return len(self.times) - self.free


# A number, or one for each scale of a Gaussian.
Weight = float | Tensor


class Step(NamedTuple):
    """One call of the model and the combination after it, in plain numbers, so that the loop has none to compute.

    Attributes:
        t: time of the state, a tensor of shape `()`, float64.
        told: time that the model is told, likewise; its state is then `alpha(told) / alpha(t)` times this one.
        alpha: at `t`.
        alpha_told: at `told`.
        sigma_told: at `told`.
        blend: multiple of the state that is added to the output.
        state: weight of the state.
        outputs: the outputs with a weight, and it.
        noise: weight of fresh noise.
        done: outputs that no later step uses.
        end: time of the state after it, likewise; 0 at `sigma = 0`.
        gone: whether nothing of the data is left, so that the output is known from `D` alone.
        of_data: weight of `D`, if noise is drawn as if the data were known; else 0.
    """

    t: Tensor
    told: Tensor
    alpha: float
    alpha_told: float
    sigma_told: float
    blend: Weight
    state: Weight
    outputs: list[tuple[int, Weight]]
    noise: float
    done: list[int]
    end: Tensor
    gone: bool = False
    of_data: float = 0.0


def steps_of(table: Table, sde: SDE) -> list[Step]:
    """Return the steps of a table."""
    each = list if table.gaussian is not None else Tensor.tolist
    rows = [
        [(k - j, weight) for j, weight in enumerate(each(row[: k + 1])) if bool(torch.as_tensor(weight).any())]
        for k, row in enumerate(table.outputs)
    ]
    last_use = dict.fromkeys(range(len(rows)), 0) | {j: k for k, row in enumerate(rows) for j, _ in row}
    done = [[j for j in range(k + 1) if max(last_use[j], j) == k] for k in range(len(rows))]
    told = table.times if table.told is None else table.told
    here, asked = sde.at(table.times), sde.at(told)
    numbers = (here.alpha, asked.alpha, asked.sigma, table.noise)
    alpha, alpha_told, sigma_told, noise = (values.tolist() for values in numbers)
    blend, state = each(table.blend), each(table.state)
    moments = table.times.unbind()
    ends = (*moments[1:], torch.zeros_like(table.times[0]) if table.end is None else table.end)
    columns = (
        moments,
        moments if table.told is None else told.unbind(),
        alpha,
        alpha_told,
        sigma_told,
        blend,
        state,
        rows,
        noise,
        done,
        ends,
        (here.gone & (table.prediction == "noise")).tolist(),
        [0.0] * len(table.times) if table.of_data is None else table.of_data.tolist(),
    )
    return [Step(*row) for row in zip(*columns, strict=True)]


def integrate(
    table: Table,
    model: Model,
    x: Tensor,
    noise: SampleNoise | None = None,
    threshold: Threshold | None = None,
) -> Tensor:
    """Run a table from `x` `(B, *dims)` at its first time; return the state at its end, in the dtype of `x`.

    Args:
        table: the sampler.
        model: asked `table.calls` times, and once on one example if the first output is free.
        x: start.
        noise: needed where the table has any.
        threshold: applied to the denoised data of each call.
    """
    steps = steps_of(table, model.sde)
    if table.gaussian is None:
        return run_steps(steps, table.prediction, model, x, noise, threshold)
    there = InAxes(model, table.gaussian, x)
    end = alpha_at_end(table, model.sde)
    u = there.turned(x, steps[0].alpha)
    given = first_answer(table, steps[0], there, x, threshold)
    u = run_steps(
        steps, table.prediction, there, u, noise, threshold, which=which_scale(table.gaussian, x), given=given
    )
    return there.turned_back(u, end)


def alpha_at_end(table: Table, sde: SDE) -> float:
    """Return `alpha` where a table ends."""
    return 1.0 if table.end is None else float(sde.alpha(table.end))


def which_scale(gaussian: Gaussian, x: Tensor) -> Tensor:
    """Return which of a Gaussian's scales each number of a state like `x` `(B, *dims)` has, shape `dims` or `()`."""
    which = gaussian.which.to(x.device)
    return which if which.ndim == 0 else which.reshape(x.shape[1:])


def first_answer(
    table: Table, step: Step, model: InAxes, x: Tensor, threshold: Threshold | None = None
) -> Tensor | None:
    """Return the model's output at `u = 0`, at the first time, for states like `x`; None if it is not free.

    It has shape `(1, *dims)`, or `(B, *dims)` if the model does not know the Gaussian of its data: then it may be
    bound to a condition of each example.
    """
    if not table.free:
        return None
    asked = x if gaussian_of_model(model.model) is None else x[:1]
    return _output(model, torch.zeros_like(asked), step, table.prediction, threshold)


def run_steps(
    steps: list[Step],
    prediction: str,
    model: Model | InAxes,
    x: Tensor,
    noise: SampleNoise | None = None,
    threshold: Threshold | None = None,
    first: int = 0,
    reached: Callable[[int, Tensor], None] | None = None,
    which: Tensor | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """Run these steps, a whole table or a part of it that uses no earlier outputs; arguments else as of `integrate`.

    Args:
        steps: what to run.
        prediction: the table's.
        model: asked once a step.
        x: start.
        noise: needed where there is any.
        threshold: applied to the denoised data of each call.
        first: number of the first of these steps in the table.
        reached: called before each call of the model, with its number in the table and the state.
        which: which of a Gaussian's scales each number of a state has, where weights are theirs.
        given: the first output, where it is free.
    """
    outputs: dict[int, Tensor] = {}
    posterior = posterior_of(model)
    for k, step in enumerate(steps, first):
        if reached is not None:
            reached(k, x)
        std: Tensor | float = step.noise
        if step.of_data and posterior is not None:
            outputs[k], variance = _output_and_variance(posterior, x, step, prediction, threshold)
            std = total_std(variance, step.of_data, step.noise**2)
        elif k == 0 and given is not None:
            outputs[k] = given.expand(x.shape)
        else:
            output = _output(model, x, step, prediction, threshold)
            outputs[k] = output if step.gone else plus(output, x, step.blend, which)
        x = x * _spread(step.state, x, which)
        for j, weight in step.outputs:
            x = plus(x, outputs[j], weight, which)
        if step.noise and noise is not None:
            x = take(noise, x, std, step.end, model if isinstance(model, InAxes) else None)
        for j in step.done:
            del outputs[j]
    return x


def _output_and_variance(
    posterior: Callable[[Tensor, Tensor], Posterior],
    x: Tensor,
    step: Step,
    prediction: str,
    threshold: Threshold | None,
) -> tuple[Tensor, Tensor]:
    """Return the model's output at a state, as `_output` does, and the variance of `x_0` there; each of its shape."""
    data, variance = posterior(x, step.told)
    assert variance is not None
    data = data if threshold is None else threshold(data)
    if step.gone:
        return data * -(step.alpha_told / step.sigma_told), variance
    return data if prediction == "data" else (x - step.alpha_told * data) / step.sigma_told, variance


def plus(x: Tensor, y: Tensor, weight: Weight, which: Tensor | None) -> Tensor:
    """Return `x + weight y`, shape of `x`."""
    if isinstance(weight, Tensor):
        return torch.addcmul(x, weight.to(x)[which], y)
    return torch.add(x, y, alpha=weight) if weight else x


def _spread(weight: Weight, x: Tensor, which: Tensor | None) -> Weight:
    """Return the weight of each number of a state like `x`, from those of the scales."""
    return weight.to(x)[which] if isinstance(weight, Tensor) else weight


def _output(model: Model | InAxes, x: Tensor, step: Step, prediction: str, threshold: Threshold | None) -> Tensor:
    """Return the model's output at a state; where nothing of the data is left, of noise with the blend added."""
    if step.told is not step.t:
        x = x * (step.alpha_told / step.alpha)
    if prediction == "noise" and threshold is None and not step.gone and not no_score(model):
        return model.score(x, step.told) * -step.sigma_told
    if threshold is None:
        data = model.denoise(x, step.told)
    elif isinstance(model, InAxes):
        data = model.of_data(threshold(model.data(x, step.told)))
    else:
        data = threshold(model.denoise(x, step.told))
    if step.gone:
        return data * -(step.alpha_told / step.sigma_told)
    return data if prediction == "data" else (x - step.alpha_told * data) / step.sigma_told
