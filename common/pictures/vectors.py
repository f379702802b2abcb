"""Histograms and scatter plots of vectors, over those of reference vectors in grey.

    d = 1     a histogram
    d = 2     a scatter plot
    d > 2     the first columns against each other, their histograms on the diagonal: a corner plot

Axes are the reference's, a tenth wider, so that pictures of several solvers can be laid side by side; how many vectors
fall outside is written in the title.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY = "#0b6aa2", "0.75"
MOST_COLUMNS = 5
_MARGIN = 0.1
_NUM_BINS = 40
# Where one column's range is so many times the other's, they are not drawn to one scale.
_ONE_SCALE = 4.0

Names = tuple[str, str]


def vectors_figure(vectors: np.ndarray, reference: np.ndarray | None, frame: np.ndarray | None, names: Names) -> Figure:
    """Draw vectors `(N, d)` over reference vectors `(M, d)`, if there are some.

    The axes are those of `frame` `(K, d)`, and then there is no title; of the reference if it is None.
    """
    draw = {1: histogram_figure, 2: scatter_figure}.get(vectors.shape[1], corner_figure)
    return draw(vectors, reference, frame, names)


def histogram_figure(
    points: np.ndarray,
    reference: np.ndarray | None = None,
    frame: np.ndarray | None = None,
    names: Names = ("samples", "data"),
) -> Figure:
    """Draw the histogram of numbers `(N, 1)`, as a density, over that of reference numbers in grey."""
    from matplotlib.figure import Figure

    low, high = limits(points if reference is None else reference, frame)
    figure = Figure(figsize=(5, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _histogram(axes, points[:, 0], _column(reference, 0), _column(frame, 0), low[0], high[0], names)
    axes.set(ylabel="density")
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
    _tell_outside(figure, points, low, high, frame, names)
    return figure


def scatter_figure(
    points: np.ndarray,
    reference: np.ndarray | None = None,
    frame: np.ndarray | None = None,
    names: Names = ("samples", "data"),
) -> Figure:
    """Plot points in the plane `(N, 2)`, over reference points `(M, 2)` in grey.

    Raises:
        ValueError: points are not in the plane.
    """
    from matplotlib.figure import Figure

    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"a scatter plot needs points of shape (N, 2), not {points.shape}")
    low, high = limits(points if reference is None else reference, frame, alike=True)
    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _scatter(axes, points, reference, names)
    one_scale = (high - low).max() < _ONE_SCALE * (high - low).min()
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal" if one_scale else "auto")
    axes.legend(loc="upper right", fontsize=8, markerscale=2, framealpha=0.9)
    _tell_outside(figure, points, low, high, frame, names)
    return figure


def corner_figure(
    vectors: np.ndarray,
    reference: np.ndarray | None = None,
    frame: np.ndarray | None = None,
    names: Names = ("samples", "data"),
) -> Figure:
    """Plot the first columns of vectors `(N, d)` against each other, with their histograms on the diagonal."""
    from matplotlib.figure import Figure

    shown = min(vectors.shape[1], MOST_COLUMNS)
    low, high = limits(vectors if reference is None else reference, frame)
    figure = Figure(figsize=(1.8 * shown, 1.8 * shown), dpi=100, layout="constrained")
    panels = figure.subplots(shown, shown, squeeze=False)
    for row in range(shown):
        for column in range(shown):
            axes: Axes = panels[row, column]
            if column > row:
                axes.set_axis_off()
                continue
            if column == row:
                of_both = _column(reference, row), _column(frame, row)
                _histogram(axes, vectors[:, row], *of_both, low[row], high[row], names)
            else:
                pair = [column, row]
                _scatter(axes, vectors[:, pair], None if reference is None else reference[:, pair], names)
                axes.set(xlim=(low[column], high[column]), ylim=(low[row], high[row]))
            axes.tick_params(labelsize=6)
            if column > 0 or row == 0:
                axes.set_yticks([])
            if row == shown - 1:
                axes.set_xlabel(f"column {column}", fontsize=8)
            else:
                axes.set_xticks([])
            if column == 0:
                axes.set_ylabel(f"column {row}" if row else "density", fontsize=8)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    some = f"the first {shown} of {vectors.shape[1]} columns" if shown < vectors.shape[1] else None
    figure.legend(handles, labels, loc="upper right", fontsize=9, title=some, title_fontsize=9)
    _tell_outside(figure, vectors, low, high, frame, names)
    return figure


def limits(examples: np.ndarray, frame: np.ndarray | None = None, alike: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper ends `(d,)` of axes for `examples` `(N, d)`, or for `frame` if it is given.

    A margin is a tenth of its own column's range or, where columns are `alike` and near one scale, of the largest.
    """
    shown = np.asarray(examples if frame is None else frame, dtype=np.float64)
    low, high = shown.min(0), shown.max(0)
    reach = high - low
    # Columns of equal numbers have a range of their own, too.
    reach = np.where(reach > 0, reach, np.maximum(np.abs(low), 1.0) * 1e-3)
    if alike and reach.max() < _ONE_SCALE * reach.min():
        reach = np.full_like(reach, reach.max())
    return low - _MARGIN * reach, high + _MARGIN * reach


def _histogram(
    axes: Axes,
    values: np.ndarray,
    reference: np.ndarray | None,
    frame: np.ndarray | None,
    low: float,
    high: float,
    names: Names,
) -> None:
    shared: dict[str, Any] = {"bins": _NUM_BINS, "range": (low, high)}
    if reference is not None:
        weights = _density(reference, low, high)
        label = f"{names[1]} ({len(reference)})"
        axes.hist(reference, color=GREY, weights=weights, label=label, **shared)
    weights = _density(values, low, high)
    label = f"{names[0]} ({len(values)})"
    axes.hist(values, color=BLUE, weights=weights, histtype="step", linewidth=1.3, label=label, **shared)
    axes.set(xlim=(low, high))
    if frame is not None:
        drawn = [each for each in (frame, reference) if each is not None]
        heights = [np.histogram(each, _NUM_BINS, (low, high), weights=_density(each, low, high))[0] for each in drawn]
        axes.set_ylim(0, 1.2 * float(np.max(heights)))


def _column(vectors: np.ndarray | None, number: int) -> np.ndarray | None:
    return None if vectors is None else vectors[:, number]


def _density(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the weights that make a histogram a density, of which what lies outside has its part."""
    return np.full(len(values), _NUM_BINS / ((high - low) * len(values)))


def _scatter(axes: Axes, points: np.ndarray, reference: np.ndarray | None, names: Names) -> None:
    size = float(np.clip(3000 / len(points), 1, 12))
    if reference is not None:
        label = f"{names[1]} ({len(reference)})"
        axes.scatter(reference[:, 0], reference[:, 1], s=size, c=GREY, linewidths=0, label=label)
    label = f"{names[0]} ({len(points)})"
    axes.scatter(points[:, 0], points[:, 1], s=size, c=BLUE, alpha=0.6, linewidths=0, label=label)


def _tell_outside(
    figure: Figure, points: np.ndarray, low: np.ndarray, high: np.ndarray, frame: np.ndarray | None, names: Names
) -> None:
    """Say in the title how many points lie outside of the axes, unless these were given."""
    outside = int(((points < low) | (points > high)).any(1).sum())
    if outside and frame is None:
        title = f"{outside} of {len(points)} {names[0]} lie outside"
        (figure.axes[0].set_title if len(figure.axes) == 1 else figure.suptitle)(title, fontsize=9)
