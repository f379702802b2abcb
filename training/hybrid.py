r"""IDDPM's objective: the mean by `L_simple`, the variance by the bound (Nichol & Dhariwal 2021, arXiv:2102.09672).

    L_hybrid = L_simple + lambda L_vlb,        lambda = 0.001                                        (equation 16)

with `L_simple = E ||eps_hat - eps||^2 / d` over rungs that are equally likely, and `L_vlb` the sum of all rungs' terms
of the variational bound, in bits per dimension, whose gradient is not let into the mean. (`L_T` has none, and `L_0`,
the reconstruction, no variance that is learned.)

Terms differ by orders of magnitude, and so may rungs be drawn as their losses were (section 3.3, equation 18):

    p_t ~ sqrt(E L_t^2),      and the loss is divided by N p_t

from the last 10 losses of each rung; until each has had so many, all are equally likely. A thousandth of the draws is
uniform ever after, so that no rung is forgotten (as in the published code). What was seen is part of the training's
state: it is in checkpoints, and of several processes the same in all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models.learned_variance import LearnedVariance
from score_sde.sde import Ladder
from score_sde.sde.marginals import on_host
from score_sde.sde.times import TimeDistribution, UniformRung, sample_times
from score_sde.training.objectives import Losses

_REMEMBERED = 10
_UNIFORM_SHARE = 0.001


class LossAwareRung:
    """The distribution in which a rung is as likely as its last losses were large.

    Args:
        ladder: the process.
    """

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        # The last losses of each rung, in turn, and how many there have been.
        self._losses = torch.zeros(ladder.num_rungs, _REMEMBERED, dtype=torch.float64)
        self._counts = torch.zeros(ladder.num_rungs, dtype=torch.int64)

    @property
    def probabilities(self) -> Tensor:
        """The probabilities of the rungs are `(N,)`, float64, on the CPU."""
        count = self.ladder.num_rungs
        uniform = torch.full((count,), 1 / count, dtype=torch.float64)
        size = self._losses.square().mean(1).sqrt()
        if bool((self._counts < _REMEMBERED).any()) or not bool(size.sum() > 0):
            return uniform
        return (1 - _UNIFORM_SHARE) * size / size.sum() + _UNIFORM_SHARE * uniform

    def quantile(self, u: Tensor) -> Tensor:
        cumulative = self.probabilities.cumsum(0)
        rung = torch.searchsorted(cumulative, on_host(u) * cumulative[-1], right=True)
        return self.ladder.time(rung.clamp(max=self.ladder.num_rungs - 1))

    def density(self, t: Tensor) -> Tensor:
        return self.probabilities[self._rung(t)]

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Remember the losses `(B,)` that there were at times `t` `(B,)`."""
        for rung, loss in zip(self._rung(t).tolist(), on_host(losses).tolist(), strict=True):
            self._losses[rung, int(self._counts[rung]) % _REMEMBERED] = loss
            self._counts[rung] += 1

    def state(self) -> dict[str, Tensor]:
        """Return what was remembered."""
        return {"losses": self._losses.clone(), "counts": self._counts.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state` returned.

        Raises:
            UserError: it is of a ladder of another length.
        """
        if state["losses"].shape != self._losses.shape or state["counts"].shape != self._counts.shape:
            raise UserError(
                f"losses of {len(state['losses'])} rungs were remembered, and the ladder has {self.ladder.num_rungs}"
            )
        self._losses, self._counts = state["losses"].double().clone(), state["counts"].long().clone()

    def _rung(self, t: Tensor) -> Tensor:
        return self.ladder.index(t).round().long()


class HybridObjective:
    """The hybrid loss is estimated without bias, from one rung and one noise an example.

    Args:
        ladder: the process.
        loss_aware: whether rungs are drawn by their losses; else all are equally likely.
        vlb_weight: lambda.
        stratified: whether the times of a batch are spread evenly.
    """

    def __init__(
        self, ladder: Ladder, loss_aware: bool = False, vlb_weight: float = 0.001, stratified: bool = True
    ) -> None:
        self.times: TimeDistribution = LossAwareRung(ladder) if loss_aware else UniformRung(ladder)
        self.num_rungs, self.vlb_weight, self.stratified = ladder.num_rungs, vlb_weight, stratified

    def __call__(self, model: LearnedVariance, batch: Batch, noise: BatchNoise | None = None) -> Losses:
        """Return the losses of a batch; arguments as of `Objective`."""
        x_0, source = batch.x_0, noise or BatchNoise(len(batch))
        t = sample_times(self.times, source, self.stratified)
        told = () if batch.condition is None else (batch.condition,)
        error, divergence = model.error_and_divergence(x_0, source.normal(x_0), t, *told)
        bits = divergence.flatten(1).mean(1) / math.log(2)
        losses = error.square().flatten(1).mean(1) + self.vlb_weight * self.num_rungs * bits
        weight = 1 / (self.num_rungs * self.times.density(t))
        return Losses(losses * weight.to(losses), t, losses)

    def learn(self, losses: Losses) -> None:
        """Remember the losses of a step, of all processes; they must all ask."""
        if isinstance(self.times, LossAwareRung) and losses.unweighted is not None and losses.times is not None:
            pairs = zip(on_host(losses.times).tolist(), on_host(losses.unweighted).tolist(), strict=True)
            seen = torch.tensor(distributed.gather(list(pairs)), dtype=torch.float64)
            self.times.learn(seen[:, 0], seen[:, 1])

    def state(self) -> dict[str, Tensor]:
        """Return what was remembered of losses; nothing where rungs are equally likely."""
        return self.times.state() if isinstance(self.times, LossAwareRung) else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        if isinstance(self.times, LossAwareRung) and state:
            self.times.restore(state)
