r"""The marginals of a process at times `t`: what there is to know of `x_t | x_0 ~ N(alpha x_0, sigma^2 I)`.

    rho    = sigma / alpha                    noise of y = x / alpha
    lambda = log(alpha / sigma) = -log rho    half the log-SNR
    r      = sqrt(alpha^2 + sigma^2)          size of the state, for data of size 1
    theta  = arctan rho                       alpha = r cos(theta), sigma = r sin(theta)

A process may end in nothing but noise, at `alpha(T) = 0`, where `rho` is infinite. There the marginals are those of
`alpha = 1e-8 sigma` (`GONE`): `alpha^2` is a rounding error of `sigma^2`, so nothing of the data is left to tell, and
what solvers make of `1 / rho` is right to eight digits.

All are float64 and lie on the CPU, wherever the states are: schedules need the digits, some accelerators (Apple's) have
no float64 at all, and a few numbers are computed faster here than on any accelerator. Only what multiplies a state is
cast to its dtype and brought to its device, once (`expand`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# `alpha / sigma` where nothing of the data is left.
GONE = 1e-8


@dataclass(frozen=True)
class Marginals:
    """The marginals at some times, float64 and on the CPU; made by `SDE.at`.

    Attributes:
        t: the times, of any shape; usually `()`, `(B,)` for times of examples, or `(N,)` for those of a grid.
        alpha: scale of the data, shape of `t`.
        sigma: standard deviation of the noise, shape of `t`.
        rho: `sigma / alpha`, the noise-to-signal ratio, shape of `t`.
        lam: `-log rho`, half the log-SNR, shape of `t`.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    rho: Tensor
    lam: Tensor

    @property
    def log_snr(self) -> Tensor:
        """The log-SNR is `2 lambda`; shape of `t`."""
        return 2 * self.lam

    @property
    def r(self) -> Tensor:
        """The norm is `sqrt(alpha^2 + sigma^2)`; shape of `t`."""
        return torch.hypot(self.alpha, self.sigma)

    @property
    def theta(self) -> Tensor:
        """The angle is `arctan(sigma / alpha)`, in radians; shape of `t`."""
        return torch.atan2(self.sigma, self.alpha)

    @property
    def gone(self) -> Tensor:
        """Whether nothing of the data is left; bool, shape of `t`."""
        return self.rho * GONE >= 1 - 1e-6

    def to(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `alpha` and `sigma` in the dtype and on the device of `x` `(B, *dims)`, shaped to multiply it."""
        return expand(self.alpha, x), expand(self.sigma, x)

    def __getitem__(self, index: int | slice) -> Marginals:
        """Return the marginals at one of the times `(N,)`, or at a stretch of them."""
        return Marginals(self.t[index], self.alpha[index], self.sigma[index], self.rho[index], self.lam[index])

    def __len__(self) -> int:
        """Count the times `(N,)`."""
        return len(self.t)

    def and_data(self) -> Marginals:
        """Append the data themselves to the times `(N,)`: time 0, `alpha = 1`, `sigma = 0`."""
        ends = ((self.t, 0.0), (self.alpha, 1.0), (self.sigma, 0.0), (self.rho, 0.0), (self.lam, torch.inf))
        return Marginals(*(torch.cat([values, values.new_full((1,), end)]) for values, end in ends))


def expand(value: Tensor, x: Tensor) -> Tensor:
    """Cast a schedule's value of shape `()` or `(B,)` to the dtype and device of `x` `(B, *dims)`, shaped to multiply
    it."""
    # Not waited for: a copy that did would wait for everything an accelerator was asked before.
    value = value.to(x.device, x.dtype, non_blocking=True)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def on_host(value: Tensor) -> Tensor:
    """Return times, or other numbers of a schedule, in float64 on the CPU; differentiable, shape of `value`."""
    # In this order, since the device they come from may have no float64.
    return value.cpu().double()
