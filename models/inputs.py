"""What models are asked with: states and times, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.models.layers.basic import transforms_active
from score_sde.sde import SDE
from score_sde.sde.marginals import on_host

# Rounding to float32 may bring a time beyond T by this part of it.
_ROUNDING = 1e-6


def states_and_times(sde: SDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return states `(B, *dims)`, of real numbers, and times `()` or `(B,)`, float64 and on the CPU.

    NumPy arrays become tensors, whole numbers torch's default dtype, and a time may be a number. Other dtypes are kept.

    Raises:
        UserError: `x` or `t` is of another type or shape, or `t` does not lie in `[0, T]`.
    """
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        x = _as_states(x)
    t = on_host(t) if isinstance(t, Tensor) else _as_times(t)
    if x.ndim < 2:
        raise UserError(f"x must have shape (B, *dims), not {tuple(x.shape)}")
    if t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(x))):
        raise UserError(f"t must have shape () or ({len(x)},), as x has {len(x)} examples, not {tuple(t.shape)}")
    if t.numel() and not (transforms_active() or torch.compiler.is_compiling()):
        first, last = (float(end) for end in t.detach().aminmax())
        if not 0 <= first <= last <= sde.T * (1 + _ROUNDING):
            raise UserError(f"t must lie in [0, {sde.T:g}], where the process does, not from {first:g} to {last:g}")
    return x, t


def _as_states(x: Any) -> Tensor:
    tensor = torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) and x.dtype.kind in "fiu" else x
    if not isinstance(tensor, Tensor) or tensor.is_complex() or tensor.dtype == torch.bool:
        raise UserError(f"x must be a tensor or array of real numbers, not {getattr(x, 'dtype', type(x).__name__)}")
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _as_times(t: Any) -> Tensor:
    try:
        return torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"t must be a tensor, an array or a number, not {type(t).__name__}") from error
