r"""Discrete ladders of noise: tables that can be read back as processes.

DDPM (Ho et al. 2020, arXiv:2006.11239), given `beta_1 … beta_N`:

    alpha_i^2 = prod_{j <= i} (1 - beta_j),     sigma_i^2 = 1 - alpha_i^2,     at time t_i = i / N

NCSN (Song & Ermon 2019, arXiv:1907.05600), given `sigma_1 < … < sigma_N`:

    alpha_i = 1,                                                               at time t_i = (i - 1) / (N - 1)

The last beta may be 1, so that nothing of the data is left at its rung (zero terminal SNR: Lin et al. 2024,
arXiv:2305.08891).

Between rungs `log alpha` (DDPM; `alpha` itself before a last rung without data) or `log sigma` (NCSN) is interpolated
linearly in `t`, so that a ladder is an `SDE` like any other, with the table's values at its rungs. VP and VE are the
limits for large N; VP read at N times is not DDPM. In code rungs are counted from 0, as the labels of trained networks
are.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.sde.base import SDE
from score_sde.sde.marginals import on_host

_MOST_RUNGS = 1_000_000


class Ladder(SDE):
    """An SDE on `[0, 1]` that passes through a table of `num_rungs` pairs of `alpha` and `sigma`."""

    num_rungs: int

    @property
    def ladder(self) -> Ladder:
        """The table is the process itself."""
        return self

    @abstractmethod
    def time(self, index: Tensor) -> Tensor:
        """Return the time of the rung `index`, counted from 0, or between rungs; float64, shape of `index`."""

    @abstractmethod
    def index(self, t: Tensor) -> Tensor:
        """Return the (fractional) rung at time `t`, as the inverse of `time`; float64, shape of `t`."""


class DDPMLadder(Ladder):
    """DDPM's ladder for any given betas.

    Args:
        betas: `beta_1 … beta_N`, each in (0, 1), but for the last, which may be 1; shape `(N,)`.

    Raises:
        UserError: a beta is not in (0, 1), or there are none.
    """

    @checked
    def __init__(self, betas: Tensor) -> None:
        if betas.ndim != 1 or len(betas) == 0:
            raise UserError("a ladder needs at least 1 rung")
        if not bool(((betas > 0) & (betas < 1))[:-1].all() & (betas[-1] > 0) & (betas[-1] <= 1)):
            raise UserError(
                f"betas must lie between 0 and 1, not from {float(betas.min()):.3g} to {float(betas.max()):.3g}: "
                "take more rungs, or a smaller beta_max"
            )
        self.betas = betas.double()
        self.num_rungs = len(betas)
        self.t_min = 1 / self.num_rungs
        self._ends_in_noise = bool(self.betas[-1] == 1)
        # Over an interval at the end of which alpha is 0 it is a factor of its own, beside the last value before.
        kept = torch.where(self.betas == 1, 0.0, self.betas)
        self._log_alpha = torch.cat([torch.zeros(1, dtype=torch.float64), 0.5 * torch.log1p(-kept).cumsum(0)])

    def time(self, index: Tensor) -> Tensor:
        return (on_host(index) + 1) / self.num_rungs

    def index(self, t: Tensor) -> Tensor:
        return on_host(t) * self.num_rungs - 1

    def log_alpha(self, t: Tensor) -> Tensor:
        """Return `log alpha`, piecewise linear in `t`, 0 at `t = 0`; at the end `-inf` if the last beta is 1."""
        position = t * self.num_rungs
        log_alpha = _interpolate(self._log_alpha, position)
        if not self._ends_in_noise:
            return log_alpha
        return log_alpha + torch.log1p(-(position - (self.num_rungs - 1)).clamp(0, 1))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    @property
    def prior_std(self) -> float:
        """The prior is `N(0, I)`, as VP's."""
        return 1.0


class NCSNLadder(Ladder):
    """NCSN's (SMLD's) ladder for any given sigmas.

    Args:
        sigmas: `sigma_1 < … < sigma_N`, positive, in the units of the data, shape `(N,)`, `N >= 2`.

    Raises:
        UserError: the sigmas do not grow from above 0, or there are fewer than two.
    """

    @checked
    def __init__(self, sigmas: Tensor) -> None:
        if sigmas.ndim != 1 or len(sigmas) < 2 or not bool(sigmas[0] > 0) or not bool((sigmas.diff() > 0).all()):
            raise UserError("NCSN's sigmas must grow from above 0, in at least 2 rungs")
        self.num_rungs = len(sigmas)
        self.t_min = 0.0
        self._log_sigma = sigmas.double().log()

    def time(self, index: Tensor) -> Tensor:
        return on_host(index) / (self.num_rungs - 1)

    def index(self, t: Tensor) -> Tensor:
        return on_host(t) * (self.num_rungs - 1)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.exp(_interpolate(self._log_sigma, t * (self.num_rungs - 1)))


@checked
def ddpm_betas(num_rungs: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """Return DDPM's linear betas `linspace(beta_min / N, beta_max / N, N)`, float64 (Song et al. 2021, appendix C)."""
    _check_rungs(num_rungs)
    return torch.linspace(beta_min / num_rungs, beta_max / num_rungs, num_rungs, dtype=torch.float64)


@checked
def cosine_betas(num_rungs: int, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Return cosine betas, float64 (Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17), clipped at `max_beta`."""
    _check_rungs(num_rungs)
    if not (0 <= offset <= 1 and 0 < max_beta < 1):
        raise UserError(
            f"cosine betas have an offset in [0, 1] and max_beta in (0, 1), not {offset:g} and {max_beta:g}"
        )
    steps = torch.linspace(0, 1, num_rungs + 1, dtype=torch.float64)
    alpha_bar = torch.cos((steps + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


@checked
def geometric_sigmas(num_rungs: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Tensor:
    """Return NCSN's geometric sigmas from `sigma_min` to `sigma_max`, float64."""
    _check_rungs(num_rungs)
    if not 0 < sigma_min < sigma_max:
        raise UserError(f"sigma_min={sigma_min:g} must lie above 0 and below sigma_max={sigma_max:g}")
    return torch.linspace(math.log(sigma_min), math.log(sigma_max), num_rungs, dtype=torch.float64).exp()


def _check_rungs(num_rungs: int) -> None:
    if not 1 <= num_rungs <= _MOST_RUNGS:
        raise UserError(f"a ladder has 1 to {_MOST_RUNGS} rungs, not num_rungs={num_rungs}")


def _interpolate(table: Tensor, position: Tensor) -> Tensor:
    """Interpolate `table` linearly at positions in `[0, len(table) - 1]`; differentiable in `position`."""
    table = table.to(device=position.device)
    left = position.detach().floor().long().clamp(0, len(table) - 2)
    fraction = position - left
    return (table[left] * (1 - fraction) + table[left + 1] * fraction).to(position.dtype)
