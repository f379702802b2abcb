r"""A score model whose network says, too, how much it does not know (Nichol & Dhariwal 2021, arXiv:2102.09672).

The network has twice the channels: a prediction `F`, as any score model's, and beside it `v`, which tells the variance
of a step of DDPM's ladder down to the next rung, number by number, between the two fixed ones (equation 15):

    log variance = nu log beta + (1 - nu) log beta-tilde,        nu = (v + 1) / 2

This speaks of one step. Solvers and bounds take other ones, from any `t` to any `s < t` (ladders of fewer rungs, times
between rungs, `ddim` with less noise), and what they all have in common is the variance `V` of `x_0 | x_t`:

    variance of x_s | x_t  =  beta-tilde(s, t) + c_0(s, t)^2 V

(`solvers.variances`). So `V` is what the model answers, as that of equation 15 at its own step, from `t` to the rung
below,

    V = beta-tilde (exp(nu log(beta / beta-tilde)) - 1) / c_0^2

Steps from rung to rung are then exactly those of equation 15, and others are what they must be if these are right. (The
published code interpolates anew between the two of the step at hand, with the same `nu`: alike to first order in the
step's length, and right in neither the longer nor the shorter ones.) As `beta / beta-tilde = sigma_t^2 / sigma_s^2`, of
a process whose noise at `s` is the same as at `t`, nothing could be told. Below the first rung there is none: there a
step goes at most halfway to the data.

`v` is trained by the variational bound, `L_{t-1}` in `solvers.density.bounds`: with `w = snr_s / snr_t - 1` and
`r = exp(nu log(beta / beta-tilde))`

    1/2 [ log r + (1 + w (eps - eps_hat)^2) / r - 1 ]

whose gradient is not let into the mean, which `L_simple` trains (equation 16, `training.hybrid`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from score_sde.common.arguments import checked
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.posterior import Posterior
from score_sde.models.inputs import states_and_times
from score_sde.models.score_model import ScoreModel
from score_sde.sde import SDE
from score_sde.sde.marginals import on_host


class _OwnStep(NamedTuple):
    """The step from `t` to the rung below, float64, on the CPU, shape of `t`.

    Attributes:
        floor: the variance of `x_s | x_t, x_0`, beta-tilde.
        scale: the weight of `x_0`, `c_0`.
        span: `log(beta / beta-tilde)`.
        gain: `snr_s / snr_t - 1`.
    """

    floor: Tensor
    scale: Tensor
    span: Tensor
    gain: Tensor


class LearnedVariance(ScoreModel):
    """A network that predicts noise or the like, and its variance beside it, gives score, denoised mean and posterior.

    Args:
        network: as of `ScoreModel`; returns twice the channels of `x`, `(B, 2 C, *dims)`: first `F`, then `v`.
        sde: the forward process, a ladder as DDPM's.
        prediction: as of `ScoreModel`, as all that follow.
        noise_label: what the network is told of the time.
        data_std: standard deviation of the data.
        scale_input: whether to divide the network's input by its standard deviation.

    Raises:
        UserError: the process is no such ladder; else as `ScoreModel`.
    """

    steps_by_posterior = True

    @checked
    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        prediction: str = "noise",
        noise_label: str | Callable[[Tensor], Tensor] = "log_snr",
        data_std: float = 1.0,
        scale_input: bool = True,
    ) -> None:
        if sde.ladder is None or sde.ladder.num_rungs < 2 or not sde.ladder.t_min > 0:
            raise UserError("a variance is learned between the rungs of a ladder as DDPM's, of at least 2")
        if sde.ends_in_noise and prediction in ("noise", "score"):
            raise UserError(
                f"where nothing of the data is left, prediction {prediction!r} says nothing of them, nor of their "
                "variance: take 'velocity'"
            )
        super().__init__(network, sde, prediction, noise_label, data_std, scale_input)
        self._ladder = sde.ladder

    def predict(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the network's own prediction `F`; shape of `x`."""
        return self.predict_both(x, t, condition)[0]

    def predict_both(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor]:
        """Return `F`, and `nu`, where between the two fixed variances a step's own lies; each of the shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        output = self.output(x, t, condition)
        if output.shape != (len(x), 2 * x.shape[1], *x.shape[2:]):
            raise UserError(
                f"the network returns shape {tuple(output.shape)} for x of shape {tuple(x.shape)}; with variances it "
                "has twice the channels"
            )
        prediction, v = output.chunk(2, dim=1)
        return prediction, 0.5 * (v + 1)

    def posterior(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x`, from one call of the network; each of the shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        prediction, nu = self.predict_both(x, t, condition)
        step = self._own_step(t)
        # In half precision the unit, next to the noise, would be infinite.
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        unit, span = self.sde.expand(step.floor / step.scale**2, wide), self.sde.expand(step.span, wide)
        variance = unit * torch.expm1(nu.to(wide) * span)
        return Posterior(self._denoised_of(x, t, prediction), variance.to(x))

    def error_and_divergence(
        self, x_0: Tensor, noise: Tensor, t: Tensor, condition: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return `eps_hat - eps` at `x_t = alpha x_0 + sigma noise`, and what each number adds to the bound by the
        step to the rung below, in nats, without gradients by the first; each of the shape of `x_0`."""
        prediction, nu = self.predict_both(self.sde.perturb(x_0, noise, t), t, condition)
        alpha, _, _, _, c = self._coefficients(t)
        error = self.sde.expand(alpha / c, x_0) * (prediction - self.target(x_0, noise, t))
        step = self._own_step(t)
        log_ratio = nu * self.sde.expand(step.span, x_0)
        square = self.sde.expand(step.gain, x_0) * error.detach().square()
        return error, 0.5 * (log_ratio + (1 + square) * torch.exp(-log_ratio) - 1)

    def _own_step(self, t: Tensor) -> _OwnStep:
        """Return the step from `t` to the rung below; below the first, halfway to the data."""
        t = on_host(t)
        s = torch.maximum(self._ladder.time(self._ladder.index(t) - 1), t / 2)
        scale, floor = self.sde.backward(s, t)
        here, there = self.sde.at(t), self.sde.at(s)
        return _OwnStep(
            floor, scale, 2 * torch.log(here.sigma / there.sigma), torch.expm1(there.log_snr - here.log_snr)
        )
