r"""Lagrangian matching: a flow map is trained so that each of its jumps follows the flow.

What is at `x` at `t` is at `X = X_{t->s}(x)` at `s`, and moves as the flow does there, whatever `t` and `x`: `d/ds X =
velocity(X, s)`, the Lagrangian equation (Boffi et al. 2024, arXiv:2406.07507). In the words of `models.flow_map`, with
`D(x, t, s)` the mean of what is denoised on the way, it is an equation of denoised means, the same for every process:

    D(x, t, s) - (1 - rho_s / rho_t) dD/d log rho_s = D*(X_{t->s}(x), s)

On the right is the denoised mean of the model whose flow is learnt: of a trained teacher, which may be guided, or of
the flow map itself, `D(X, s, s)`, which then has to learn that from data by a loss of denoising beside
(self-distillation: Boffi et al. 2025, arXiv:2505.18825). No solver is in it, and no factor blows up. The loss is the
mean square of what the two sides differ by, the right one taken for a constant,

    E || D(x, t, s) - (1 - rho_s / rho_t) dD/d log rho_s - D*(X_{t->s}(x), s) ||^2 / (d c^2),         x = x_t

with `c` the data's standard deviation. Its gradient goes through the derivative, too: with only the first D trained, as
consistency models are (Song et al. 2023), losses grow on the digits.

D and its derivative are half the sum and the difference of two calls at neighbouring positions, without dropout, and in
the dtype of the weights: it is the derivative by one number, for which differentiating all of the network forward costs
three times as much, and which not every network allows.

Positions `w` (see `models.flow_map`), in which errors count the same, are uniform: that of `t`, from noise on, but for
a share that begins in pure noise, as sampling does; and that of `s`, from `t` on, but for a share that stays at `t`,
where D becomes the denoised mean itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import FlowMap, Given
from score_sde.models.flow_map import along
from score_sde.sde import SDE
from score_sde.sde.times import log_snr_range
from score_sde.solvers import Model
from score_sde.training.objectives import Losses, Objective

# The model whose flow is learnt, given the condition of the examples.
Teacher = Callable[[Condition | None], Model]

# Of the batch, this share begins in pure noise …
_FROM_NOISE = 0.4
# … and this share stays where it is.
_STILL = 0.1


class LagrangianMatching:
    """The loss of a flow map is how far its jumps are from following a flow.

    Args:
        sde: the forward process.
        teacher: the model whose flow is learnt, for a condition; the flow map itself, if left out.
        denoising: the loss by which the flow map learns denoised means, without a teacher.
        t_min: smallest time jumped to.
    """

    def __init__(
        self, sde: SDE, teacher: Teacher | None = None, denoising: Objective | None = None, t_min: float = 1e-5
    ) -> None:
        log_snr_range(sde, t_min)
        self.sde = sde
        self.teacher = teacher
        self.denoising = denoising
        self.t_min = t_min

    def __call__(self, model: FlowMap, batch: Batch, noise: BatchNoise | None = None) -> Losses:
        """Return the losses of a batch.

        Args:
            model: what is trained.
            batch: the examples, with what the network is told of them.
            noise: source of times and noise; torch's own generator if left out.
        """
        source = noise or BatchNoise(len(batch))
        t, position = self._times(model, source)
        x = self.sde.perturb(batch.x_0, source.normal(batch.x_0), t)
        residual = self.residual(model, x, t, position, batch.condition)
        losses = (residual / model.data_std).square().flatten(1).mean(1)
        if self.denoising is not None:
            losses = losses + self.denoising(model, batch, source).values
        return Losses(losses, t)

    def residual(
        self, model: FlowMap, x: Tensor, t: Tensor, position: Tensor, condition: Condition | None = None
    ) -> Tensor:
        """Return by how much a flow map misses the Lagrangian equation; its right side is a constant.

        Args:
            model: the flow map.
            x: states `(B, *dims)`.
            t: their times `(B,)`.
            position: the positions that are jumped to `(B,)`.
            condition: the condition of the examples.
        """
        rho = model.rho_at(position)
        s = torch.minimum(self.sde.time_at_log_snr(-2 * torch.log(rho)), t)
        denoised, slope = _value_and_slope(model, x, t, position, condition)
        with torch.no_grad(), _without_dropout(model):
            teacher = Given(model, condition) if self.teacher is None else self.teacher(condition)
            target = teacher.denoise(along(self.sde, x, t, s, denoised), s)
        factor = (1 - rho / self.sde.at(t).rho) * model.rate(rho)
        return denoised - self.sde.expand(factor, x) * slope - target

    def _times(self, model: FlowMap, noise: BatchNoise) -> tuple[Tensor, Tensor]:
        """Draw for each row of a batch a time, and a position to jump to; float64, on the CPU, each `(B,)`."""
        like = torch.empty(1, dtype=torch.float64)
        # Spread evenly over the batch, as `sample_times` does.
        u, v = ((noise.permutation() + noise.uniform(like)) / noise.count for _ in range(2))
        ends = self.sde.at(torch.tensor([self.sde.T, self.t_min], dtype=torch.float64))
        first, last = model.position(ends.rho)
        begin = first + (last - first) * ((u - _FROM_NOISE) / (1 - _FROM_NOISE)).clamp(min=0)
        position = begin + (last - begin) * ((v - _STILL) / (1 - _STILL)).clamp(min=0)
        t = self.sde.time_at_log_snr(-2 * torch.log(model.rho_at(begin))).clamp(self.t_min, self.sde.T)
        return t, position


def _value_and_slope(
    model: FlowMap, x: Tensor, t: Tensor, position: Tensor, condition: Condition | None
) -> tuple[Tensor, Tensor]:
    """Return `D(x, t, s)` and `dD(x, t, s) / dw` at a position, to second order; each of the shape of `x`."""
    # With the cube root, rounding and truncation are alike.
    step = torch.finfo(x.dtype).eps ** (1 / 3)
    with _without_dropout(model), torch.autocast(x.device.type, enabled=False):
        after = model.mean_denoised(x, t, position + step, condition)
        before = model.mean_denoised(x, t, position - step, condition)
    return (after + before) / 2, (after - before) / (2 * step)


@contextmanager
def _without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for a while: two calls then differ by what they are asked alone."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
