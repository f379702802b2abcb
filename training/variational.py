r"""The variational bound of a model whose schedule is learned with it (Kingma et al. 2021, arXiv:2107.00630: VDM).

With `lambda(t)` the log-SNR of `sde.learned`, falling from `lambda_0` at 0 to `lambda_1` at 1, and `d` dimensions,

    -log p(x_0) <= prior + reconstruction + 1/2 ∫_0^1 |lambda'(t)| E||eps_hat(x_t, t) - eps||^2 dt

estimated from one time an example. The losses are the bound in units of `d/2` times the first `lambda_0 - lambda_1`:
with fixed ends, of which the first two terms are constants, they are those of the weighting "likelihood".

The integral is the same whatever the way `u(t)` between the ends. So the way is not trained by the bound but for the
variance of its estimate (appendix I): as the mean does not change, the gradient of the variance is that of the square,

    ∇_u E[L_i^2] = E[2 L_i ∇_u L_i],

the gradient by the way multiplied, example by example, by twice the loss: no second backward pass. At the least,
log-SNRs have a density proportional to the root of the mean square of the error at each. Network and ends have the
gradient of the bound itself.

All that a model makes of a time depends on its log-SNR, and the process has no gradient by its weights. So the gradient
enters by the times, which are told how the schedule would move them,

    t' = t - (lambda(t) - [lambda(t)]) / [|lambda'(t)|],        [ ] held constant

which is `t`, and moves the log-SNR `[lambda](t')` as the weights move `lambda(t)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import Given
from score_sde.sde.learned import LearnedSDE
from score_sde.sde.marginals import on_host
from score_sde.sde.times import UniformTime, sample_times
from score_sde.training.objectives import Losses, noise_losses


class VariationalBound:
    """The bound is estimated, with the gradient by the schedule that makes the estimate fluctuate less.

    Args:
        stratified: whether the times of a batch are spread evenly.
    """

    def __init__(self, stratified: bool = True) -> None:
        self.stratified = stratified

    def __call__(self, model: Any, batch: Batch, noise: BatchNoise | None = None) -> Losses:
        """Return the losses of a batch; their mean estimates the bound.

        Args:
            model: a `ScoreModel` or `QuantisedModel` of a `LearnedSDE`, whose schedule at the moment is asked for.
            batch: the examples, with what the network is told of them.
            noise: source of times and noise; torch's own generator if left out.

        Raises:
            UserError: examples are modelled in part, and the ends are learned.
        """
        source = noise or BatchNoise(len(batch))
        t = sample_times(UniformTime(model.sde, 0.0), source, self.stratified)
        eps = source.normal(batch.x_0)
        return Losses(self.losses_at(model, batch, eps, t), t, model.sde.log_snr(t))

    def losses_at(self, model: Any, batch: Batch, eps: Tensor, t: Tensor) -> Tensor:
        """Return the losses `(B,)` at given times `(B,)`, with noise `eps` of the shape of the examples."""
        sde: LearnedSDE = model.sde
        way, known = torch.stack(sde.way(t)), list[Tensor]()
        if way.requires_grad:
            # What the losses are is known by the time that gradients come by.
            way.register_hook(lambda gradient: gradient * 2 * on_host(known[0]))
        high, low = sde.ends
        fall = (high - low) * way[1]
        told = _moving(t, high - (high - low) * way[0], fall)
        error = noise_losses(Given(model, batch.condition), batch.x_0, eps, told, batch.modelled)
        losses = (fall / _unit(sde)).to(error, non_blocking=True) * error
        known.append(losses.detach())
        if sde.learned_ends is None:
            return losses
        if batch.modelled is not None:
            raise UserError("ends of a schedule are learned from whole examples: take fixed ones")
        return losses + self.terms_of_ends(model, batch.x_0, eps)

    def terms_of_ends(self, model: Any, x_0: Tensor, eps: Tensor) -> Tensor:
        """Return the prior's and the reconstruction's term of the bound, in the units of the losses; `(B,)`.

        The first is `KL(N(alpha x_0, sigma^2 I) || N(0, I))`, at the end.
        """
        sde: LearnedSDE = model.sde
        high, low = sde.ends
        zeros = torch.zeros(len(x_0), dtype=torch.float64)
        first = _moving(zeros, high.expand(len(x_0)), (high - low) * sde.way(zeros)[1])
        size = on_host(x_0.square().flatten(1).mean(1))
        prior = 0.5 * (torch.sigmoid(low) * (size - 1) - logsigmoid(-low))
        return (prior.to(x_0) + model.reconstruction(x_0, eps, first).to(x_0)) * (2 / _unit(sde))


def _unit(sde: LearnedSDE) -> float:
    """Return the first fall of the log-SNR, in halves of which the bound is counted."""
    return sde.first_ends[0] - sde.first_ends[1]


def _moving(t: Tensor, log_snr: Tensor, fall: Tensor) -> Tensor:
    """Return times equal to `t` `(B,)` whose log-SNR, which falls so fast, moves with the weights as `log_snr` does."""
    return t - (log_snr - log_snr.detach()) / fall.detach()
