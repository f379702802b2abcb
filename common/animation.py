"""Animations: which states of a trajectory to show, and GIFs of the frames drawn from them.

Pictures take shape in the log-SNR, not in time; so of many states those are shown that are nearest to even steps of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from score_sde.common.files import write_atomically

# Frames of a GIF last whole hundredths of a second, and those shorter than two are slowed down by browsers.
_LEAST_HUNDREDTHS = 2
# By how many frames the last one is longer than the others.
_LAST = 10


def evenly(log_snr: Sequence[float], count: int) -> list[int]:
    """Return the numbers, rising, of at most `count` states, the first and last among them, evenly in log-SNR.

    Args:
        log_snr: of each state, rising; that of the last, at `sigma = 0`, may be infinite.
        count: how many states there may be, at least 2.

    Raises:
        ValueError: there are fewer than two states, or `count` is less.
    """
    values = np.asarray(log_snr, dtype=np.float64)
    if len(values) < 2 or count < 2:
        raise ValueError(f"an animation has at least 2 frames: there are {len(values)} states, and {count} are wanted")
    if len(values) <= count:
        return list(range(len(values)))
    last = len(values) - 1
    # The last state is shown in any case; even steps lead to the last with some noise, if there is one before it.
    inner = values[:-1] if np.isinf(values[-1]) else values
    wanted = np.linspace(inner[0], inner[-1], count - (len(inner) < len(values)))
    nearest = np.abs(inner[None, :] - wanted[:, None]).argmin(1)
    return sorted({*nearest.tolist(), last})


def animate(frames: Sequence[np.ndarray], path: str | Path, seconds: float) -> None:
    """Write frames as a GIF that begins again and again; the last is shown longer than the others.

    Args:
        frames: uint8 `(H, W, C)`, all of one shape, with 1, 3 or 4 channels.
        path: the file.
        seconds: how long all of them take.

    Raises:
        ValueError: the frames are none of these.
        UserError: the file cannot be written.
    """
    from PIL import Image

    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1 or any(frame.dtype != np.uint8 for frame in frames):
        raise ValueError("an animation needs uint8 frames (H, W, C), all of one shape")
    (shape,) = shapes
    if len(shape) != 3 or shape[2] not in (1, 3, 4):
        raise ValueError(f"a frame has shape (H, W, C) with 1, 3 or 4 channels, not {shape}")
    each = max(_LEAST_HUNDREDTHS, round(100 * seconds / (len(frames) + _LAST)))
    images = [Image.fromarray(frame[..., 0] if shape[2] == 1 else frame) for frame in frames]
    durations = [10 * each] * (len(frames) - 1) + [10 * each * (1 + _LAST)]
    with write_atomically(path) as temporary:
        images[0].save(
            temporary, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, disposal=1
        )
