"""The axes of arrays of examples: what they mean, and in which order they come."""

from __future__ import annotations

import numpy as np

from score_sde.common.errors import UserError

_CHANNELS = (1, 3)
# Floats whose last number is no larger, and smaller than the second, are taken for ones with channels last.
_FEW_CHANNELS = 4


def examples(array: np.ndarray, where: str) -> np.ndarray:
    """Return an array with channels behind the number of examples; nothing is copied.

    Raises:
        UserError: the array is of no kind named above, or could be several things.
    """
    if array.ndim and array.size == 0:
        raise UserError(f"{where} has shape {array.shape}, so there is nothing in it")
    if array.dtype == np.uint8 and array.ndim == 3:
        if array.shape[2] in _CHANNELS:
            raise UserError(
                f"{where} has shape {array.shape}, where the last number could be the channels of one picture, or the "
                "width of many: save them as (N, H, W, C), or (N, H, W) with W above 3"
            )
        return array[:, None]
    if array.dtype == np.uint8 and array.ndim == 4:
        first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
        if first and last:
            raise UserError(
                f"{where} has shape {array.shape}, where channels could be the second number or the last: save it as "
                "(N, H, W, C) with H above 3"
            )
        if first or last:
            return array if first else array.transpose(0, 3, 1, 2)
    floats = np.issubdtype(array.dtype, np.floating)
    if (floats and array.ndim in (4, 5)) or (array.dtype == np.uint8 and array.ndim == 5):
        if array.shape[-1] <= _FEW_CHANNELS and array.shape[-1] < array.shape[1]:
            order = "(N, C, H, W)" if array.ndim == 4 else "(N, C, D, H, W)"
            raise UserError(
                f"{where} has shape {array.shape}, where the last number could be the channels: they come second, as "
                f"in {order}"
            )
        return array
    if array.ndim == 2 and (floats or (array.dtype.kind in "iu" and array.dtype != np.uint8)):
        return array
    if array.ndim == 3 and floats:
        return array
    raise UserError(
        f"{where} has {array.dtype} numbers of shape {array.shape}: pictures are uint8 (N, H, W), (N, H, W, C) or "
        "(N, C, H, W), with 1 channel or 3; floats are vectors (N, d), series (N, C, L), fields (N, C, H, W) or "
        "volumes (N, C, D, H, W), which may be uint8, too"
    )
