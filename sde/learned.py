r"""A variance-preserving process whose log-SNR is a monotone network, learned with the model (Kingma et al. 2021,
arXiv:2107.00630, section 5.1 and appendix H: VDM).

    log_snr(t) = log_snr_max - (log_snr_max - log_snr_min) u(t),        u(0) = 0,  u(1) = 1
    u(t)       = (h(t) - h(0)) / (h(1) - h(0))                          the share of the way that is gone, on [0, 1]
    h(t)       = a t + sum_k h_k sigmoid(r_k (t - c_k))                 a, h_k, r_k > 0: h rises
    alpha^2    = sigmoid(log_snr),     sigma^2 = sigmoid(-log_snr)

The bound of the likelihood depends on the two ends alone, and not on the way between them: `u` only decides how much
its estimate from one random time fluctuates. At first the log-SNR is all but linear in `t`. Where there is nothing to
learn it is to fall a hundred times as fast as elsewhere. So that an optimiser's few thousand steps, of some thousandths
each, get there, the weights are logarithms of `a`, `h_k` and `r_k` in units of four, and `c_k` in halves.

Seen as a process this is a constant function of the time: what the methods of `SDE` return has no gradient by the
weights, so that solvers, grids and likelihoods take it as any other, and no graph outlives a step. Nothing is kept
between calls, so nothing goes stale while the schedule moves. The gradient by the weights is that of `way` and `ends`,
which are for the objective (`training.variational`).

The weights are in the model's dtype, on its device; all that is computed from them is float64 on the CPU, to which they
are brought in one copy a call.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from score_sde.common.arguments import checked
from score_sde.common.errors import UserError
from score_sde.sde.base import SDE
from score_sde.sde.marginals import Marginals, on_host

_NUM_UNITS = 64
# At first unit k rises about the time (k + 1/2) / K, from 12 to 88 percent within 4 / 64 of all times.
_FIRST_RATE = 64.0
_LOG_UNIT, _TIME_UNIT = 4.0, 0.5
# The inverse begins from the log-SNR at so many times, and ends within so many steps in any case.
_NUM_KNOTS = 257
_MOST_STEPS = 60
_RESOLUTION = 1e-15


class LearnedSDE(nn.Module, SDE):
    """Variance-preserving SDE on `[0, 1]` that is a module: its weights belong to the model that has it.

    Args:
        log_snr_max: log-SNR at time 0, where there is some noise already; that at first, if ends are learned.
        log_snr_min: log-SNR at time 1.
        learn_ends: whether the two are weights as well.

    Raises:
        UserError: the log-SNR does not fall.
    """

    @checked
    def __init__(self, log_snr_max: float = 13.3, log_snr_min: float = -5.0, learn_ends: bool = False) -> None:
        super().__init__()
        if not log_snr_min < log_snr_max:
            raise UserError(f"log_snr_min={log_snr_min:g} must lie below log_snr_max={log_snr_max:g}")
        self.t_min = 0.0
        self.first_ends = (log_snr_max, log_snr_min)
        self.learned_ends = nn.Parameter(torch.tensor(self.first_ends)) if learn_ends else None
        centres = (torch.arange(_NUM_UNITS) + 0.5) / _NUM_UNITS
        self.log_slope = nn.Parameter(torch.zeros(1))
        self.log_heights = nn.Parameter(torch.full((_NUM_UNITS,), -math.log(_NUM_UNITS) / _LOG_UNIT))
        self.log_rates = nn.Parameter(torch.full((_NUM_UNITS,), math.log(_FIRST_RATE) / _LOG_UNIT))
        self.centres = nn.Parameter(centres / _TIME_UNIT)

    @property
    def prior_std(self) -> float:
        """Data of unit variance keep it, and the prior is `N(0, I)`."""
        return 1.0

    @property
    def ends(self) -> Tensor:
        """The log-SNRs at times 0 and 1, `(2,)`; float64, with a gradient by the weights if they are learned."""
        if self.learned_ends is None:
            return torch.tensor(self.first_ends, dtype=torch.float64)
        return on_host(self.learned_ends)

    def way(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return `u(t)` and `du/dt`; float64, shape of `t`, with a gradient by the weights and by `t`."""
        return self._way(on_host(t), self._weights())

    def log_snr(self, t: Tensor) -> Tensor:
        return self._log_snr_and_slope(t)[0]

    def log_alpha(self, t: Tensor) -> Tensor:
        return (0.5 * logsigmoid(self.log_snr(t))).to(t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(self.log_snr(t))).to(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(-self.log_snr(t))).to(t)

    def at(self, t: Tensor | float) -> Marginals:
        """Return the marginals at times `t` of any shape, dtype and device; differentiable by `t`."""
        times = on_host(t) if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        log_snr = self.log_snr(times)
        alpha, sigma = torch.sqrt(torch.sigmoid(log_snr)), torch.sqrt(torch.sigmoid(-log_snr))
        return Marginals(times, alpha, sigma, torch.exp(-0.5 * log_snr), 0.5 * log_snr)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the time with this log-SNR, the nearest end for values out of range; differentiable by it.

        The log-SNR at some hundred times, computed in one, brackets the root; Newton's steps that leave the bracket
        become bisections. Three to five calls of the network do, whatever the schedule has become.
        """
        log_snr = on_host(log_snr)
        with torch.no_grad():
            root = self._root(log_snr.detach())
        if not (torch.is_grad_enabled() and log_snr.requires_grad):
            return root
        value, slope = self._log_snr_and_slope(root)
        return root + (log_snr - value) / slope

    def _root(self, log_snr: Tensor) -> Tensor:
        knots = torch.linspace(0, self.T, _NUM_KNOTS, dtype=torch.float64)
        values = self.log_snr(knots)
        wanted = torch.maximum(torch.minimum(log_snr, values[0]), values[-1])
        right = torch.searchsorted(-values, -wanted).clamp(1, _NUM_KNOTS - 1)
        low, high = knots[right - 1], knots[right]
        t = low + (high - low) * (values[right - 1] - wanted) / (values[right - 1] - values[right])
        for _ in range(_MOST_STEPS):
            value, slope = self._log_snr_and_slope(t)
            low, high = torch.where(value > wanted, t, low), torch.where(value > wanted, high, t)
            newton = t - (value - wanted) / slope
            before, t = t, torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
            if not bool(((t - before).abs() > _RESOLUTION).any()):
                break
        return t

    def _weights(self) -> Tensor:
        return on_host(torch.cat([self.log_slope, self.log_heights, self.log_rates, self.centres]))

    def _way(self, t: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        centres = _TIME_UNIT * weights[-_NUM_UNITS:]
        positive = torch.exp(_LOG_UNIT * weights[:-_NUM_UNITS])
        slope, heights, rates = positive.split([1, _NUM_UNITS, _NUM_UNITS])
        unit = torch.sigmoid(rates * (t.unsqueeze(-1) - centres))
        first = (heights * torch.sigmoid(-rates * centres)).sum()
        length = slope + (heights * torch.sigmoid(rates * (self.T - centres))).sum() - first
        gone = slope * t + (heights * unit).sum(-1) - first
        rate = slope + (heights * rates * unit * (1 - unit)).sum(-1)
        return gone / length, rate / length

    def _log_snr_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-SNR and its derivative, with a gradient by `t` alone; float64, shape of `t`."""
        way, rate = self._way(on_host(t), self._weights().detach())
        high, low = self.ends.detach()
        return high - (high - low) * way, -(high - low) * rate
