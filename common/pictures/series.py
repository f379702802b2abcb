"""Curves of series `(C, L)`: a few samples beside as many data, a row for each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from score_sde.common.pictures.vectors import BLUE, Names, limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CHANNELS = 5
# Panels of data, and as many of samples, lie side by side; series of one channel have so many rows of them.
_ABREAST = 2
_ROWS = 4
_DARK_GREY = "0.35"


def series_figure(series: np.ndarray, reference: np.ndarray | None, frame: np.ndarray | None, names: Names) -> Figure:
    """Draw the first of some series `(N, C, L)`, and left of them the first reference series, if there are some.

    All panels of a channel have the same axes, those of the reference; of `frame` `(K, C, L)` if it is given.
    """
    from matplotlib.figure import Figure

    channels = min(series.shape[1], MOST_CHANNELS)
    rows = channels if channels > 1 else min(_ROWS, -(-len(series) // _ABREAST))
    groups = [(names[0], series, BLUE)]
    if reference is not None:
        groups.insert(0, (names[1], reference, _DARK_GREY))
    shown = series if reference is None else reference
    # Of all times together, for each channel.
    low, high = limits(_by_channel(shown), None if frame is None else _by_channel(frame))
    abreast = _ABREAST * (2 if reference is None else 1)
    figure = Figure(figsize=(2.3 * abreast * len(groups) + 0.5, 1.35 * rows + 0.6), dpi=100, layout="constrained")
    panels = figure.subplots(rows, abreast * len(groups), squeeze=False, sharex=True)
    for group, (name, curves, colour) in enumerate(groups):
        for row in range(rows):
            for place in range(abreast):
                axes = panels[row, group * abreast + place]
                channel, example = (row, place) if channels > 1 else (0, row * abreast + place)
                if example < len(curves):
                    axes.plot(curves[example, channel], color=colour, linewidth=0.9)
                axes.set(ylim=(low[channel], high[channel]))
                axes.spines[["top", "right"]].set_visible(False)
                axes.tick_params(labelsize=7)
                if group + place > 0:
                    axes.set_yticklabels([])
                elif channels > 1:
                    axes.set_ylabel(f"channel {channel}", fontsize=8)
                if row == 0:
                    axes.set_title(f"{name} {example}" if channels > 1 else name, fontsize=9, color=colour)
    if channels < series.shape[1]:
        figure.suptitle(f"the first {channels} of {series.shape[1]} channels", fontsize=9)
    return figure


def _by_channel(series: np.ndarray) -> np.ndarray:
    """Return the numbers of all series and times, `(N L, C)`."""
    return np.moveaxis(series, 1, -1).reshape(-1, series.shape[1])
