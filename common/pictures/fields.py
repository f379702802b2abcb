"""Fields `(C, H, W)` and volumes `(C, D, H, W)` in colours, samples beside data, with one colour bar for both.

A volume is seen as its three middle slices: across the first axis, the second and the third.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from score_sde.common.pictures.vectors import Names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CHANNELS = 3
_MOST_FIELDS, _MOST_VOLUMES = 16, 5
# Colours reach over this share of the numbers in the middle; the colour bar's ends are pointed where some go beyond.
_SHARE = 0.99
# Distance of neighbouring pictures, as a part of their longer side.
_GAP = 0.06


def fields_figure(fields: np.ndarray, reference: np.ndarray | None, frame: np.ndarray | None, names: Names) -> Figure:
    """Draw the first of some fields `(N, C, H, W)`, and left of them reference fields: a row for each channel.

    Colours are the reference's; those of `frame` `(K, C, H, W)` if it is given.
    """
    return _figure(fields, reference, frame, names, _MOST_FIELDS, None)


def volumes_figure(volumes: np.ndarray, reference: np.ndarray | None, frame: np.ndarray | None, names: Names) -> Figure:
    """Draw middle slices of the first of some volumes `(N, C, D, H, W)`, and left of them of reference volumes.

    A volume has a row. Colours are those of the reference's slices; of the slices of `frame` if it is given.
    """
    seen = [None if each is None else middle_slices(each) for each in (volumes, reference, frame)]
    assert seen[0] is not None
    return _figure(seen[0], seen[1], seen[2], names, _MOST_VOLUMES, 1)


def middle_slices(volumes: np.ndarray) -> np.ndarray:
    """Lay the three middle slices of each volume `(N, C, D, H, W)` side by side; NaN lies between and around them.

    Returns:
        Pictures `(N, C, max(H, D), 2 W + H + 2 gap)`, float64.
    """
    depth, height, width = volumes.shape[2:]
    slices = [volumes[:, :, depth // 2], volumes[:, :, :, height // 2], volumes[..., width // 2]]
    high = max(depth, height)
    gap = np.full((*volumes.shape[:2], high, _gap_of(high, width)), np.nan)
    laid: list[np.ndarray] = []
    for each in slices:
        padded = np.full((*each.shape[:2], high, each.shape[3]), np.nan)
        padded[:, :, : each.shape[2]] = each
        laid += [padded, gap]
    return np.concatenate(laid[:-1], axis=3)


def mosaic(pictures: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Arrange pictures `(N, H, W)` row by row, with NaN between them; `(height, width)`."""
    count, height, width = pictures.shape
    # As near to a square as whole numbers of them come.
    columns = min(count, columns or max(1, round(math.sqrt(count * height / width))))
    rows, gap = -(-count // columns), _gap_of(height, width)
    laid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        laid[top : top + height, left : left + width] = picture
    return laid


def _figure(
    fields: np.ndarray,
    reference: np.ndarray | None,
    frame: np.ndarray | None,
    names: Names,
    most: int,
    columns: int | None,
) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    channels = min(fields.shape[1], MOST_CHANNELS)
    # As many of the one as of the other, so that both are seen in one size.
    count = min(most, len(fields), most if reference is None else len(reference))
    groups = [(names[0], fields[:count])]
    if reference is not None:
        groups.insert(0, (names[1], reference[:count]))
    colours = frame if frame is not None else fields if reference is None else reference
    height, width = mosaic(groups[0][1][:, 0], columns).shape
    panel = 3.6 * math.sqrt(height / width), 3.6 * math.sqrt(width / height)
    figure = Figure(
        figsize=(panel[1] * len(groups) + 0.9, panel[0] * channels + 0.4),
        dpi=100,
        layout=ConstrainedLayoutEngine(wspace=0.05),
    )
    panels = figure.subplots(channels, len(groups), squeeze=False)
    for channel in range(channels):
        low, high = np.nanquantile(colours[:, channel], [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
        for axes, (name, some) in zip(panels[channel], groups, strict=True):
            picture = axes.imshow(mosaic(some[:, channel], columns), vmin=low, vmax=high, interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(name if fields.shape[1] == 1 else f"{name}, channel {channel}", fontsize=9)
        bar = figure.colorbar(picture, ax=list(panels[channel]), extend="both", shrink=0.8, pad=0.02)
        bar.ax.tick_params(labelsize=8)
    if channels < fields.shape[1]:
        figure.suptitle(f"the first {channels} of {fields.shape[1]} channels", fontsize=9)
    return figure


def _gap_of(height: int, width: int) -> int:
    return max(1, round(_GAP * max(height, width)))
