"""Data that come with matplotlib, as samples for its examples: a series and a field, to try things on.

eeg         ten seconds of four channels of an electroencephalogram (PG3, PG5, PG7, PG9), 80 values a second, each
            channel of deviation about 1: https://matplotlib.org/stable/gallery/specialty_plots/mri_with_eeg.html
elevation   heights around the Jacksboro fault, Tennessee, in whole metres, on a grid of 3 seconds of arc:
            https://matplotlib.org/stable/gallery/specialty_plots/topographic_hillshading.html

Both are cut into overlapping windows. The left three quarters are trained on, the right quarter is tested on, and no
window has to do with both. Whole metres have no density: the height of a place is known to half a metre, so a number
uniform in [-1/2, 1/2) is added to it, once, whatever windows it is in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data.split import Parts

CHANNELS, STEPS_A_SECOND = ("PG3", "PG5", "PG7", "PG9"), 80
_LENGTH, _STEP, _TEST_STEP = 64, 1, 8
_SIDE, _STRIDE, _TEST_STRIDE = 32, 4, 16
_BINS = 2**12
_TRAINED_ON = 0.75


def load_eeg() -> Parts:
    """Load the windows `(N, 4, 64)`, float64, of 0.8 seconds each."""
    signal = torch.from_numpy(np.fromfile(_sample("eeg.dat"), "<f8").reshape(-1, len(CHANNELS)).T.copy())
    left, right = _divided(signal)
    train, test = (
        part.unfold(1, _LENGTH, step).movedim(1, 0).contiguous() for part, step in ((left, _STEP), (right, _TEST_STEP))
    )
    return Parts(train, test)


def load_elevation(seed: int = 0) -> Parts:
    """Load the patches `(N, 1, 32, 32)`, float32, in metres; the seed is that of what lies between whole metres."""
    with np.load(_sample("jacksboro_fault_dem.npz"), allow_pickle=False) as content:
        metres = torch.from_numpy(content["elevation"].astype(np.float32))
    # Middles of so many bins of a metre, which float32 holds exactly at these heights, so that none is rounded up.
    bins = torch.randint(_BINS, metres.shape, generator=torch.Generator().manual_seed(seed))
    metres += (bins + 0.5) / _BINS - 0.5
    left, right = _divided(metres)
    return Parts(_patches(left, _STRIDE), _patches(right, _TEST_STRIDE))


def _divided(whole: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the last dimension into what is trained on and what is tested on."""
    edge = int(_TRAINED_ON * whole.shape[-1])
    return whole[..., :edge], whole[..., edge:]


def _patches(field: Tensor, stride: int) -> Tensor:
    """Return all squares of a field `(H, W)` at multiples of the stride, `(N, 1, side, side)`."""
    return field.unfold(0, _SIDE, stride).unfold(1, _SIDE, stride).flatten(0, 1).unsqueeze(1).contiguous()


def _sample(name: str) -> Path:
    """Return where a file of matplotlib's samples is."""
    from matplotlib import cbook

    path = Path(cbook.get_sample_data(name, asfileobj=False))
    if not path.exists():
        raise UserError(f"there is no {path}, which comes with matplotlib: install that from PyPI, or take other data")
    return path
