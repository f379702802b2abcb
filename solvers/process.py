"""Whether a process can be solved: it can where its log-SNR falls through finite numbers from `t_min` on, to `T`."""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.sde import SDE
from score_sde.sde.base import check_first_time

# Where a process is looked at before it is solved.
_NUM_PLACES = 33
# By how much a log-SNR may rise by rounding.
_ROUNDING = 1e-9


def last_time(sde: SDE, t_min: float | None) -> float:
    """Return `t_min`, or the process's own if left out. Every solver asks for it, and so learns whether it can use the
    process.

    Raises:
        UserError: it is not in `[0, T)`, or the process is none that can be solved between (`check_process`).
    """
    t_min = sde.t_min if t_min is None else t_min
    check_first_time(t_min, sde.T)
    check_process(sde, t_min)
    return t_min


@torch.no_grad()
def check_process(sde: SDE, t_min: float) -> None:
    """Raise `UserError` unless the log-SNR falls from `t_min` to `T` through finite numbers.

    At `t_min` it may be infinite, since some solvers never divide by `sigma` there; see `log_snr_range`. So may it be
    at `T`, where a process may end in nothing but noise.
    """
    name = type(sde).__name__
    times = torch.linspace(float(t_min), sde.T, _NUM_PLACES, dtype=torch.float64)
    log_snr = sde.log_snr(times)
    wrong = ~log_snr.isfinite()
    wrong[0] = bool(log_snr[0].isnan())
    wrong[-1] = bool(log_snr[-1].isnan() | log_snr[-1].isposinf())
    if bool(wrong.any()):
        place = int(wrong.long().argmax())
        raise UserError(
            f"{name} has the log-SNR {float(log_snr[place]):g} at t = {float(times[place]):g}: alpha and sigma must be "
            f"finite and positive between t_min and T"
        )
    rising = log_snr[1:] > log_snr[:-1] + _ROUNDING * (1 + log_snr[:-1].abs())
    if bool(rising.any()):
        place = int(rising.long().argmax())
        raise UserError(
            f"{name} has a log-SNR that rises from t = {float(times[place]):g} to {float(times[place + 1]):g}: "
            "alpha / sigma must decrease from t = 0 to T"
        )


def log_snr_range(sde: SDE, t_min: float) -> Tensor:
    """Return the log-SNRs at `t_max` and `t_min`, `(2,)`, float64, for solvers that go through all between.

    Raises:
        UserError: there is no noise at `t_min`.
    """
    ends = sde.log_snr(torch.tensor([sde.t_max, t_min], dtype=torch.float64))
    if not bool(ends[1].isfinite()):
        raise UserError(
            f"the log-SNR of {type(sde).__name__} at t_min = {t_min:g} is not finite: t_min must lie where there is "
            "some noise"
        )
    return ends
