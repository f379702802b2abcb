r"""A score model for quantised data: the network predicts levels, and what follows from a level is computed exactly.

Dequantised data lie in bins: level `k` is uniform on `[a_k, a_k + w)` (see `data.units`). The noise of `x_t = alpha
x_0 + sigma eps` is independent between pixels, so that, once a pixel's level is known, its noise depends on its own
noisy value alone: `x_0 | x_t, k` is a normal distribution with mean `y = x_t / alpha` and deviation `rho = sigma /
alpha`, truncated to the bin. With `z_k = (a_k - y) / rho` and `Z_k` a standard normal variable truncated to `[z_k,
z_{k+1}]`,

    eps_hat = E[eps | x_t] = -sum_k p_k E[Z_k],        D = y - rho eps_hat,
    p_k     = softmax_k( F_k + log(Phi(z_{k+1}) - Phi(z_k)) ).

The last term is the evidence that the pixel's own noisy value gives for its level; the network's logits `F` have to add
only what the other pixels say. Nothing needs to be learnt about the edges of the bins, which dominate the score at low
noise, and at low noise the model is exact whatever the network.

Data that are not dequantised are points, level `k` at `c_k`: the first at `low`, the last at `high` (see
`data.units.Points`). Then `E[eps | x_t, k] = (x_t - alpha c_k) / sigma`, and the evidence is the log-density of `x_t`
given the point, `-((x_t - alpha c_k) / sigma)^2 / 2`; the rest is the same.

The noise error is measured from `E[eps | x_t, k]`, with `k` the true level, rather than from `eps`: its mean square is
less by a constant, the same for every network, and it fluctuates less (Rao-Blackwell).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.special import log_ndtr

from score_sde.common.arguments import checked
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.float64 import in_float64
from score_sde.models.inputs import states_and_times
from score_sde.models.preconditioning import Preconditioned
from score_sde.sde import SDE


class QuantisedModel(Preconditioned):
    """A network that predicts the level of each pixel gives score, denoised mean and noise.

    `x` has shape `(B, C, *dims)`, `t` shape `()` or `(B,)`; results have the shape and dtype of `x`. Arrays and other
    dtypes are taken as by `ScoreModel`.

    Args:
        network: called as by `ScoreModel`; returns logits `(B, levels * C, *dims)`, those of level 0 for all channels
            first.
        sde: the forward process.
        levels: number of levels.
        low: lower edge of the first bin, in model units.
        high: upper edge of the last bin.
        noise_label: what the network is told of the time; a key of `NOISE_LABELS`, or a function of `t` `(B,)`.
        data_std: standard deviation of the data, all dimensions together.
        scale_input: whether to divide the network's input by its standard deviation.
        dequantised: whether levels are bins, in which data are uniform, or points.

    Raises:
        UserError: there are fewer than two levels, `low` is not below `high`, `data_std` is not positive, or there is
            no such label; when called: as `ScoreModel`.
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        levels: int,
        low: float = -1.0,
        high: float = 1.0,
        noise_label: str | Callable[[Tensor], Tensor] = "log_snr",
        data_std: float = 1.0,
        scale_input: bool = True,
        dequantised: bool = True,
    ) -> None:
        if not (levels >= 2 and low < high and data_std > 0):
            raise UserError(
                "a model of levels needs at least two, low below high, and a positive data_std, not "
                f"levels={levels}, low={low:g}, high={high:g}, data_std={data_std:g}"
            )
        super().__init__(network, sde, noise_label, data_std, scale_input)
        self.dequantised = dequantised
        self.levels = levels
        self.low = low
        self.high = high

    def noise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `eps_hat = E[eps | x_t = x]`; shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        return self._noise_of_levels(x, t, condition)[0].to(x)

    def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `∇ log p_t(x) = -eps_hat / sigma`; shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        return -self.noise(x, t, condition) / self.sde.expand(self.sde.at(t).sigma, x)

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `D = E[x_0 | x_t = x]`; shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        noise, _ = self._noise_of_levels(x, t, condition)
        alpha, sigma = self.sde.at(t).to(noise)
        return ((in_float64(x) - sigma * noise) / alpha).to(x)

    def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `eps_hat - E[eps | x_t, level of x_0]` at `x_t = alpha x_0 + sigma noise`; shape of `x_0`."""
        estimate, given_level = self._noise_of_levels(self.sde.perturb(x_0, noise, t), t, condition)
        level = self._level(x_0).to(given_level.device)
        return (estimate - given_level.gather(1, level).squeeze(1)).to(x_0)

    def reconstruction(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return `-log P(level of x_0 | x_t)` of each number from its own noisy value, levels equally likely, in nats a
        dimension: the last term of the variational bound, to which the network says nothing; `(B,)`, float64."""
        log_evidence, _ = self._evidence(self.sde.perturb(x_0, noise, t), t)
        level = self._level(x_0).to(log_evidence.device)
        return -torch.log_softmax(log_evidence, dim=1).gather(1, level).flatten(1).mean(1)

    def _level(self, x_0: Tensor) -> Tensor:
        """Return the level of each number of data, `(B, 1, C, *dims)`."""
        place = (x_0 - self.low) / (self.high - self.low)
        level = (place * self.levels).floor() if self.dequantised else (place * (self.levels - 1)).round()
        return level.long().clamp(0, self.levels - 1).unsqueeze(1)

    def _noise_of_levels(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor]:
        """Return `E[eps | x_t]`, shape of `x`, and `E[eps | x_t, k]`, `(B, levels, *dims)`; float64.

        Both are computed in float64, since an edge of a bin may be thousands of deviations away.
        """
        logits = self.output(x, t, condition)
        expected = (len(x), self.levels * x.shape[1], *x.shape[2:])
        if logits.shape != expected:
            raise UserError(
                f"the network returns shape {tuple(logits.shape)} for x of shape {tuple(x.shape)}; logits of "
                f"{self.levels} levels have {expected}"
            )
        logits = in_float64(logits).unflatten(1, (self.levels, -1))
        log_evidence, mean = self._evidence(x, t)
        return -(torch.softmax(logits + log_evidence, dim=1) * mean).sum(1), -mean

    def _evidence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return what noisy values `x` say of their own levels, up to a constant, and the mean of `-eps` given each
        level, `(B, levels, *dims)`; float64."""
        # The dimension of the bins comes after the batch's.
        x = in_float64(x).unsqueeze(1)
        alpha, sigma = self.sde.at(t).to(x)
        count = self.levels + 1 if self.dequantised else self.levels
        places = torch.linspace(self.low, self.high, count, dtype=x.dtype, device=x.device)
        z = (alpha * places.reshape(-1, *(1,) * (x.ndim - 2)) - x) / sigma
        return truncated_normal(z) if self.dequantised else (-0.5 * z**2, z)


def truncated_normal(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probability, under the standard normal distribution, of each interval, and its mean there.

    Args:
        edges: ends of the intervals `(B, K + 1, *dims)`, rising along dimension 1; results have shape `(B, K, *dims)`.

    With `tail = log Phi(-|edge|)`, which keeps its digits far out, the probability is the difference of two tails if
    the interval lies on one side of 0, and 1 less both tails if it does not.
    """
    tail, log_density = log_ndtr(-edges.abs()), -0.5 * edges**2 - 0.5 * math.log(2 * math.pi)
    low, high, low_tail, high_tail = edges[:, :-1], edges[:, 1:], tail[:, :-1], tail[:, 1:]
    # The bound keeps derivatives finite where both tails are alike, and the other case holds.
    ratio = (-(low_tail - high_tail).abs()).clamp(max=-1e-16)
    one_side = torch.maximum(low_tail, high_tail) + torch.log(-torch.expm1(ratio))
    around_zero = torch.log1p(-torch.exp(low_tail) - torch.exp(high_tail))
    log_mass = torch.where((low < 0) & (high > 0), around_zero, one_side)
    mean = torch.exp(log_density[:, :-1] - log_mass) - torch.exp(log_density[:, 1:] - log_mass)
    return log_mass, torch.minimum(torch.maximum(mean, low), high)
