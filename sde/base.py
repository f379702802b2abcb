r"""Forward processes: two scalar functions of time, and everything that follows from them.

A forward process turns data `x_0` into noise by

    dx = f(t) x dt + g(t) dw,        x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I),        t in [0, T].

A process is given by `alpha` and `sigma`; the rest is derived (Song et al. 2021, arXiv:2011.13456, section 3; Kingma
et al. 2021, arXiv:2107.00630, appendix):

    f(t)       = d log alpha / dt                             drift coefficient
    g(t)^2     = d sigma^2 / dt - 2 f(t) sigma(t)^2           squared diffusion
    log_snr(t) = 2 log(alpha / sigma)

Times are tensors of shape `()` or `(B,)`; states have shape `(B, *dims)`. Schedules are computed in float64 on the CPU
(`sde.marginals`) and cast once, to the dtype and device of the state they are combined with. With the score, the
process is reversed by a family of processes that run from `p_T` to `p_0` through the same marginals:

    dx = [f(t) x - (1 + eta^2)/2 g(t)^2 score(x, t)] dt + eta g(t) dw̄        (time runs from T down to 0)

`eta = 1` is the reverse SDE (Song et al., equation 6; Anderson 1982), `eta = 0` the probability flow ODE (equation 13).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise, seeds_from_generator
from score_sde.sde.marginals import GONE, Marginals, expand, on_host

if TYPE_CHECKING:
    from score_sde.sde.ladder import Ladder

# `alpha / sigma` where what is uniform in log-SNR begins, if the process ends in noise.
_LEAST_SIGNAL = 1e-3
# Halving [0, T] this often locates a time to float64's resolution.
_BISECTION_STEPS = 64


class SDE(ABC):
    """A forward process given by `alpha(t)` and `sigma(t)`.

    To add one, write these two as smooth functions of a tensor `t` (torch operations only, since they are
    differentiated automatically), with `alpha / sigma` strictly decreasing.

    Whatever a method returns of a schedule alone is float64 and lies on the CPU, wherever `t` comes from; only `alpha`,
    `sigma` and `log_alpha` are of the dtype and device of `t`, which is for their callers to choose.

    Attributes:
        T: end of time; the process starts at 0.
        t_min: smallest time at which a model should be evaluated; below it the score blows up or leaves float32's
            resolution.
    """

    T: float = 1.0
    t_min: float = 1e-3

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the scale of the data at time `t`; same shape as `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of the noise at time `t`; same shape as `t`."""

    @property
    def ladder(self) -> Ladder | None:
        """The table of rungs that the process passes through is itself, where it is a `Ladder`; else there is none."""
        return None

    @property
    def prior_std(self) -> float:
        """The prior that stands for `p_T` is `N(0, prior_std^2 I)`."""
        return float(self.sigma(torch.tensor(self.T, dtype=torch.float64)))

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of the data is left at `T`: `alpha(T) = 0`."""
        return float(self.log_snr(torch.tensor(self.T, dtype=torch.float64))) < 2 * math.log(GONE)

    @property
    def t_max(self) -> float:
        """The largest time at which the log-SNR can be reckoned with is `T`, or where `alpha = 0.001 sigma` if nothing
        of the data is left at `T`.

        What is uniform in log-SNR begins there. `p_t` there is the prior but for `alpha^2`, a millionth, of the data's
        variance.
        """
        if not self.ends_in_noise:
            return self.T
        return float(self.time_at_log_snr(torch.tensor(2 * math.log(_LEAST_SIGNAL), dtype=torch.float64)))

    def at(self, t: Tensor | float) -> Marginals:
        """Return the marginals at times `t` of any shape, dtype and device; differentiable.

        Where nothing of the data is left they are finite all the same (see `sde.marginals`).
        """
        times = on_host(t) if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        lam, alpha, sigma = 0.5 * self.log_snr(times), self.alpha(times), self.sigma(times)
        gone = lam < math.log(GONE)
        if bool(gone.any()):
            lam, alpha = torch.where(gone, math.log(GONE), lam), torch.where(gone, GONE * sigma, alpha)
        return Marginals(times, alpha, sigma, torch.exp(-lam), lam)

    def at_lambda(self, lam: Tensor) -> Marginals:
        """Return the marginals with these half log-SNRs; differentiable."""
        lam = on_host(lam)
        t = self.time_at_log_snr(2 * lam)
        return Marginals(t, self.alpha(t), self.sigma(t), torch.exp(-lam), lam)

    def log_alpha(self, t: Tensor) -> Tensor:
        """Return `log alpha(t)`; same shape as `t`."""
        return torch.log(self.alpha(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """Return the log signal-to-noise ratio `log(alpha^2 / sigma^2)`; float64, same shape as `t`."""
        t = on_host(t)
        return 2 * (self.log_alpha(t) - torch.log(self.sigma(t)))

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the time in `[0, T]` with this log-SNR; differentiable, float64, shape of `log_snr`.

        Bisection brackets the root; one Newton step from there carries the derivative. Values outside the process's
        range give the nearest end.
        """
        log_snr = on_host(log_snr)
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
        """Return `f(t) = d log alpha / dt`, in 1/time; same shape as `t`, float64."""
        return _value_and_derivative(self.log_alpha, on_host(t))[1]

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """Return `g(t)^2 = d sigma^2 / dt - 2 f(t) sigma^2`; same shape as `t`, float64."""
        sigma, slope = _value_and_derivative(self.sigma, on_host(t))
        return 2 * sigma * (slope - self.drift_coefficient(t) * sigma)

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `g(t)`; same shape as `t`, float64. A rounding error below zero (where g vanishes) counts as zero."""
        return self.diffusion_squared(t).clamp(min=0).sqrt()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the drift `f(t) x` of the forward process; same shape and dtype as `x`."""
        return expand(self.drift_coefficient(t), x) * x

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor, eta: float) -> Tensor:
        """Return `f x - (1 + eta^2)/2 g^2 score`, to be multiplied by a negative `dt`; same shape and dtype as `x`."""
        g_squared = self.diffusion_squared(t).clamp(min=0)
        return self.drift(x, t) - expand(0.5 * (1 + eta**2) * g_squared, x) * score

    def perturb(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return a sample of `x_t | x_0`, `alpha(t) x_0 + sigma(t) noise`; same shape and dtype as `x_0`."""
        alpha, sigma = expand(self.alpha(on_host(t)), x_0), expand(self.sigma(on_host(t)), x_0)
        return alpha * x_0 + sigma * noise

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and variance of `x_t | x_s`, `s <= t`, `N(alpha_ts x_s, variance I)`; float64, shape of `t`.

        `alpha_ts = alpha_t / alpha_s` and `variance = sigma_t^2 - alpha_ts^2 sigma_s^2 = sigma_t^2 (1 - snr_t /
        snr_s)`.
        """
        s, t = on_host(s), on_host(t)
        variance = -(self.sigma(t) ** 2) * torch.expm1(self.log_snr(t) - self.log_snr(s))
        return self.alpha(t) / self.alpha(s), variance

    def backward(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scale of `x_0` and the variance of `x_s | x_t, x_0`, `s <= t`; float64, shape of `t`.

        It is `N(c_0 x_0 + c_t x_t, variance I)`, with `v` the variance of `x_t | x_s`: `c_0 = alpha_s v / sigma_t^2`,
        `c_t = alpha_ts sigma_s^2 / sigma_t^2` and `variance = v sigma_s^2 / sigma_t^2`, DDPM's beta-tilde.
        """
        s, t = on_host(s), on_host(t)
        share = -torch.expm1(self.log_snr(t) - self.log_snr(s))
        return self.alpha(s) * share, self.sigma(s) ** 2 * share

    expand = staticmethod(expand)

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
        """Return the log-density of the prior at `x` `(B, *dims)`, in nats; shape `(B,)`."""
        z = x.flatten(1) / self.prior_std
        dimension = z.shape[1]
        return -0.5 * z.square().sum(1) - dimension * (math.log(self.prior_std) + 0.5 * math.log(2 * math.pi))


def check_first_time(t_min: float, T: float) -> None:
    """Raise `UserError` unless `t_min` lies in `[0, T)`."""
    if not 0 <= t_min < T:
        raise UserError(f"t_min must lie in [0, {T:g}), not {t_min:g}")


def _value_and_derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """Return `function(t)` and its derivative, of an elementwise function; themselves differentiable if `t` is."""
    wanted = torch.is_grad_enabled() and t.requires_grad
    with torch.enable_grad():
        s = t if wanted else t.detach().requires_grad_()
        # Added zeros give a graph to a function that is constant, such as VE's alpha.
        value = function(s) + 0 * s
        (derivative,) = torch.autograd.grad(value.sum(), s, create_graph=wanted)
    return (value, derivative) if wanted else (value.detach(), derivative)
