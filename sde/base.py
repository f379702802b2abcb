r"""Forward processes: two scalar functions of time, and everything that follows from them.

A forward process turns data `x_0` into noise by

    dx = f(t) x dt + g(t) dw,        x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I),        t in [0, T].

A process is given by `alpha` and `sigma`; the rest is derived (Song et al. 2021, arXiv:2011.13456, section 3; Kingma
et al. 2021, arXiv:2107.00630, appendix):

    f(t)       = d log alpha / dt                             drift coefficient
    g(t)^2     = d sigma^2 / dt - 2 f(t) sigma(t)^2           squared diffusion
    log_snr(t) = 2 log(alpha / sigma)

Times are tensors of shape `()` or `(B,)`; states have shape `(B, *dims)`. Schedules are computed in float64 and cast
once, to the dtype of the state they are combined with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise, seeds_from_generator

# Halving [0, T] this often locates a time to float64's resolution.
_BISECTION_STEPS = 64


class SDE(ABC):
    """A forward process given by `alpha(t)` and `sigma(t)`.

    To add one, write these two as smooth functions of a tensor `t` (torch operations only, since they are
    differentiated automatically), with `alpha / sigma` strictly decreasing.

    Attributes:
        T: end of time; the process starts at 0.
        t_min: smallest time at which a model should be evaluated; below it the score blows up or leaves float32's
            resolution.
    """

    T: float = 1.0
    t_min: float = 1e-3

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data at time `t`; same shape as `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time `t`; same shape as `t`."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior `N(0, prior_std^2 I)` that stands for `p_T`."""
        return float(self.sigma(torch.tensor(self.T, dtype=torch.float64)))

    def log_alpha(self, t: Tensor) -> Tensor:
        """`log alpha(t)`; same shape as `t`."""
        return torch.log(self.alpha(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """Log signal-to-noise ratio `log(alpha^2 / sigma^2)`; same shape as `t`."""
        t = t.double()
        return 2 * (self.log_alpha(t) - torch.log(self.sigma(t)))

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time in `[0, T]` at which the process has this log-SNR; differentiable, float64, shape of `log_snr`.

        Bisection brackets the root; one Newton step from there carries the derivative. Values outside the process's
        range give the nearest end.
        """
        log_snr = log_snr.double()
        low, high = torch.zeros_like(log_snr), torch.full_like(log_snr, self.T)
        with torch.no_grad():
            for _ in range(_BISECTION_STEPS):
                middle = (low + high) / 2
                too_clean = self.log_snr(middle) > log_snr
                low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        root = ((low + high) / 2).detach()
        if not (torch.is_grad_enabled() and log_snr.requires_grad):
            return root
        value, slope = _value_and_derivative(self.log_snr, root)
        return root + (log_snr - value.detach()) / slope.detach()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """`f(t) = d log alpha / dt`, in 1/time; same shape as `t`, float64."""
        return _value_and_derivative(self.log_alpha, t.double())[1]

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """`g(t)^2 = d sigma^2 / dt - 2 f(t) sigma^2`; same shape as `t`, float64."""
        sigma, slope = _value_and_derivative(self.sigma, t.double())
        return 2 * sigma * (slope - self.drift_coefficient(t) * sigma)

    def diffusion(self, t: Tensor) -> Tensor:
        """`g(t)`; same shape as `t`, float64. A rounding error below zero (where g vanishes) counts as zero."""
        return self.diffusion_squared(t).clamp(min=0).sqrt()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Drift `f(t) x` of the forward process; same shape and dtype as `x`."""
        return self.expand(self.drift_coefficient(t), x) * x

    def perturb(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """A sample of `x_t | x_0`: `alpha(t) x_0 + sigma(t) noise`; same shape and dtype as `x_0`."""
        t = t.double()
        return self.expand(self.alpha(t), x_0) * x_0 + self.expand(self.sigma(t), x_0) * noise

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and variance of `x_t | x_s` for `s <= t`: `N(alpha_ts x_s, variance I)`; float64, shape of `t`.

        `alpha_ts = alpha_t / alpha_s` and `variance = sigma_t^2 - alpha_ts^2 sigma_s^2 = sigma_t^2 (1 - snr_t /
        snr_s)`.
        """
        s, t = s.double(), t.double()
        variance = -(self.sigma(t) ** 2) * torch.expm1(self.log_snr(t) - self.log_snr(s))
        return self.alpha(t) / self.alpha(s), variance

    @staticmethod
    def expand(value: Tensor, x: Tensor) -> Tensor:
        """A schedule's value of shape `()` or `(B,)`, cast and shaped to broadcast against `x` `(B, *dims)`."""
        value = value.to(dtype=x.dtype, device=x.device)
        return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value

    @checked
    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        seeds: Iterable[int] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw `x_T` of the given shape `(B, *dims)` from the prior `N(0, prior_std^2 I)`.

        Example `i` depends on `seeds[i]` alone. Without seeds, they are drawn from `generator` (or from torch's
        default one).

        Raises:
            UserError: it is no shape of a batch, the seeds are not as many as its examples, or the dtype is not that of
                real numbers, or there is no such device.
        """
        if len(shape) < 2 or min(shape) < 1:
            raise UserError(f"a batch has a shape (B, *dims) of numbers from 1 on, not {tuple(shape)}")
        if dtype is not None and not dtype.is_floating_point:
            raise UserError(f"states have a dtype of real numbers, such as torch.float32, not {dtype}")
        try:
            device = torch.device(device)
        except RuntimeError as error:
            raise UserError(f"torch knows no device {device!r}: take one such as 'cpu' or 'cuda:0'") from error
        seeds = seeds_from_generator(shape[0], generator) if seeds is None else list(seeds)
        like = torch.empty(tuple(shape), dtype=dtype or torch.get_default_dtype(), device=device)
        return self.prior_std * SampleNoise(seeds, stream="prior").normal(like)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log-density of the prior at `x` `(B, *dims)`, in nats; shape `(B,)`."""
        z = x.flatten(1) / self.prior_std
        dimension = z.shape[1]
        return -0.5 * z.square().sum(1) - dimension * (math.log(self.prior_std) + 0.5 * math.log(2 * math.pi))


def check_first_time(t_min: float, T: float) -> None:
    """Raise `UserError` unless `t_min` lies in `[0, T)`."""
    if not 0 <= t_min < T:
        raise UserError(f"t_min must lie in [0, {T:g}), not {t_min:g}")


def _value_and_derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """`function(t)` and its derivative, for an elementwise function; themselves differentiable if `t` is."""
    wanted = torch.is_grad_enabled() and t.requires_grad
    with torch.enable_grad():
        s = t if wanted else t.detach().requires_grad_()
        # Added zeros give a graph to a function that is constant, such as VE's alpha.
        value = function(s) + 0 * s
        (derivative,) = torch.autograd.grad(value.sum(), s, create_graph=wanted)
    return (value, derivative) if wanted else (value.detach(), derivative)
