r"""The library diffusers' schedulers of flows.

Their states are `x = (1 - t) x_0 + t eps`; a network is told `N t`, with `N` the `num_train_timesteps`, and returns
`eps - x_0`. The process is `RectifiedFlow`, whatever a scheduler's settings: all but `invert_sigmas` choose times. They
are, of `n` steps from 1 to the last, before 0,

    linear      from 1 to the least time of the table, 1/N, which is moved already
    shift       u -> a u / (1 + (a - 1) u), with a the `shift`                    (Esser et al. 2024, equation 23)
    dynamic     … with a = e^mu, or mu if linear, where mu grows linearly with the number of patches of the image
    terminal    stretched about 1, so that the last is `shift_terminal`
    otherwise   from 1 to what is the last then: t^(1/7) linear (karras), log t linear (exponential), or quantiles of a
                beta distribution with both its numbers 0.6 (beta)

Euler's method in t between them, on straight lines, is DDIM: with `F = eps - D`, `x = (1 - t) D + t eps`,

    (1 - s) D + s eps = x + (s - t) F.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.sde import RectifiedFlow
from score_sde.sde.fractions import shifted

FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
# Settings that choose times, or add noise to steps.
TIMES = frozenset(
    {
        "shift",
        "use_dynamic_shifting",
        "base_shift",
        "max_shift",
        "base_image_seq_len",
        "max_image_seq_len",
        "time_shift_type",
        "shift_terminal",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "stochastic_sampling",
    }
)
_KARRAS_EXPONENT = 7.0
_BETA = 0.6


def flow_times(settings: Mapping[str, Any], num_steps: int, num_patches: int | None = None) -> Tensor:
    """Return the times of a scheduler's steps, as solvers take them for a grid; float64, `(num_steps,)`.

    Args:
        settings: those of the scheduler, its `config`, or what its file holds.
        num_steps: number of steps.
        num_patches: patches of the image, where times depend on its size.

    Raises:
        UserError: there are too few steps; times depend on the size of the image and it is not given.
    """
    terminal = _number(settings, "shift_terminal", 0.0) if settings.get("shift_terminal") else None
    if num_steps < (2 if terminal else 1):
        raise UserError(f"these times are at least {2 if terminal else 1}, not {num_steps}")
    fixed = 1.0 if settings.get("use_dynamic_shifting") else _fixed_shift(settings)
    shift = _dynamic_shift(settings, num_patches) if settings.get("use_dynamic_shifting") else fixed
    times = shifted(torch.linspace(1, _least(settings, fixed), num_steps, dtype=torch.float64), shift)
    if terminal:
        times = 1 - (1 - times) * (1 - terminal) / (1 - times[-1])
    first, last = times[[0, -1]].tolist()
    if settings.get("use_karras_sigmas"):
        start, end = (time ** (1 / _KARRAS_EXPONENT) for time in (first, last))
        times = torch.linspace(start, end, num_steps, dtype=torch.float64) ** _KARRAS_EXPONENT
    elif settings.get("use_exponential_sigmas"):
        times = torch.linspace(math.log(first), math.log(last), num_steps, dtype=torch.float64).exp()
    elif settings.get("use_beta_sigmas"):
        from scipy.stats import beta

        times = last + (first - last) * torch.from_numpy(beta.ppf(1 - np.linspace(0, 1, num_steps), _BETA, _BETA))
    return times


def flow_process(settings: Mapping[str, Any]) -> RectifiedFlow:
    """Return the process of a scheduler; its `t_min` is the least time that the scheduler has itself, of an image of
    the least size if that counts."""
    if settings.get("use_dynamic_shifting"):
        least = _least(settings, 1.0)
        shift = _dynamic_shift(settings, int(_number(settings, "base_image_seq_len", 256)))
    else:
        shift = _fixed_shift(settings)
        least = _least(settings, shift)
    return RectifiedFlow(min(least, _moved(least, shift)))


def _least(settings: Mapping[str, Any], shift: float) -> float:
    """Return the least time of the table."""
    return _moved(1 / _number(settings, "num_train_timesteps", 1000, above=1), shift)


def _moved(time: float, shift: float) -> float:
    return float(shifted(torch.tensor(time, dtype=torch.float64), shift))


def _fixed_shift(settings: Mapping[str, Any]) -> float:
    return _number(settings, "shift", 1.0)


def _dynamic_shift(settings: Mapping[str, Any], num_patches: int | None) -> float:
    """Return the shift of an image of so many patches."""
    if num_patches is None:
        raise UserError("these times depend on the size of the image: say num_patches, the number of its patches")
    few = _number(settings, "base_image_seq_len", 256)
    many = _number(settings, "max_image_seq_len", 4096, above=few)
    low, high = (_number(settings, f"{name}_shift", value) for name, value in (("base", 0.5), ("max", 1.15)))
    mu = low + (high - low) * (num_patches - few) / (many - few)
    return mu if settings.get("time_shift_type") == "linear" else math.exp(mu)


def _number(settings: Mapping[str, Any], name: str, default: float, above: float = 0) -> float:
    """Return a setting that is a number above another.

    Raises:
        UserError: it is something else.
    """
    value = settings.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < math.inf:
        raise UserError(f"a scheduler of flows has {name}={value!r}, which must be a number above {above:g}")
    return float(value)
