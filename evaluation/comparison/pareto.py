"""Distance against network calls, one line a solver, the Pareto front on top."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from score_sde.common.files import write_atomically
from score_sde.evaluation.comparison.compare import Comparison, Estimate, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {
    "endpoint_error": "distance to the exact endpoint",
    "frechet": "Fréchet distance to held-out data",
}
# Two labels are at least this part of the panel's height apart.
_LABEL_GAP = 0.055


def save_pareto(comparison: Comparison, path: str | Path, title: str) -> None:
    """Draw what was measured of endpoint errors and Fréchet distances, a panel each, as a PNG.

    Points that no other beats in both calls and distance, the Pareto front, are ringed and joined. Bars are one
    standard error.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = [name for name in _PANELS if any(name in row.measures for row in comparison.rows)]
    labels = list(dict.fromkeys(row.run.label for row in comparison.rows))
    colours = dict(zip(labels, matplotlib.colormaps["tab10"](np.arange(len(labels)) % 10), strict=True))
    figure = Figure(figsize=(6.4 * len(panels), 4.8), dpi=120, layout="constrained")
    figure.suptitle(f"Solvers on {title}: lower and further left is better")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        ends = _panel(axes, comparison, name, colours)
        # Limits are known once everything is drawn.
        figure.draw_without_rendering()
        _name_lines(axes, ends, colours)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png")


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, distance) that no other matches in one and beats in the other; by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, distance in sorted(points):
        if not front or distance < front[-1][1]:
            front.append((cost, distance))
    return front


def _panel(
    axes: Axes, comparison: Comparison, name: str, colours: dict[str, np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Draw one measure; return each solver's last point."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

    rows = [row for row in comparison.rows if name in row.measures and 0 < row.measures[name].mean < math.inf]
    axes.set(xscale="log", yscale="log", xlabel="network calls a sample", title=_PANELS[name])
    if not rows:
        return {}
    floor = comparison.floor.get(name)
    ends_of_bars = [end for row in rows for end in _bar(row.measures[name])]
    axes.set_xlim(*_limits([row.nfe for row in rows]))
    axes.set_ylim(*_limits(ends_of_bars + ([] if floor is None or floor.mean <= 0 else [floor.mean])))
    front = pareto_front([(row.nfe, row.measures[name].mean) for row in rows])
    axes.plot(*np.transpose(front), color="0.85", linewidth=9, solid_capstyle="round", zorder=1)
    ends = {}
    for label, colour in colours.items():
        own = sorted((row for row in rows if row.run.label == label), key=lambda row: row.nfe)
        if own:
            ends[label] = _line(axes, own, name, colour, set(front))
    if floor is not None and floor.mean > 0:
        axes.axhline(floor.mean, color="0.4", linestyle=":", linewidth=1.2, zorder=1)
        axes.annotate(
            "other real data",
            (0.01, floor.mean),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            color="0.3",
            va="bottom",
        )
    axes.xaxis.set_major_locator(FixedLocator(_ticks([row.run.budget or round(row.nfe) for row in rows])))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.93", which="major")
    axes.spines[["top", "right"]].set_visible(False)
    return ends


def _line(
    axes: Axes, rows: list[Row], name: str, colour: np.ndarray, front: set[tuple[float, float]]
) -> tuple[float, float]:
    """Draw one solver; return its last point."""
    nfe = [row.nfe for row in rows]
    mean = np.array([row.measures[name].mean for row in rows])
    bars = np.abs(np.transpose([_bar(row.measures[name]) for row in rows]) - mean)
    axes.errorbar(nfe, mean, bars, color=colour, linewidth=1.6, marker="o", markersize=4, capsize=2.5, zorder=2)
    best = [(x, y) for x, y in zip(nfe, mean, strict=True) if (x, y) in front]
    axes.scatter(
        [x for x, _ in best], [y for _, y in best], s=70, color=[colour], edgecolors="black", linewidths=1.4, zorder=3
    )
    return nfe[-1], float(mean[-1])


def _bar(measure: Estimate) -> tuple[float, float]:
    """Return the ends of an error bar.

    Where the bar would reach below zero, for which a logarithmic axis has no place, it is cut at a tenth of the value.
    """
    error = np.nan_to_num(measure.standard_error)
    return measure.mean - min(error, 0.9 * measure.mean), measure.mean + error


def _limits(values: list[float]) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that shows these values, with some room; also of a single one."""
    low, high = min(values), max(values)
    room = max(1.2, (high / low) ** 0.05)
    return low / room, high * room


def _name_lines(axes: Axes, ends: dict[str, tuple[float, float]], colours: dict[str, np.ndarray]) -> None:
    """Write the solvers' names in a column on the right, in the order of their last points, with leaders to these."""
    to_height = axes.transData + axes.transAxes.inverted()
    heights = {label: float(to_height.transform(end)[1]) for label, end in ends.items()}
    ordered = sorted(heights, key=heights.__getitem__)
    places = spread([heights[label] for label in ordered], _LABEL_GAP)
    for label, place in zip(ordered, places, strict=True):
        axes.annotate(
            label,
            xy=ends[label],
            xytext=(1.04, place),
            textcoords="axes fraction",
            color=colours[label],
            fontsize=9,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours[label], "linewidth": 0.7, "alpha": 0.6, "shrinkB": 4},
        )


def spread(heights: list[float], gap: float) -> list[float]:
    """Move rising heights until they are `gap` apart at least, inside [0, 1]; those that touch keep their mean."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _low(groups[-1], gap) < _low(groups[-2], gap) + gap * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_low(group, gap) + gap * i for group in groups for i in range(len(group))]


def _low(group: list[float], gap: float) -> float:
    """Return the lowest place of a group laid out around its mean, inside [0, 1]."""
    extent = gap * (len(group) - 1)
    return max(0.0, min(1.0 - extent, sum(group) / len(group) - extent / 2))


def _ticks(calls: list[int]) -> list[int]:
    """Return those of these numbers, rising, that are far enough from each other to be read."""
    ticks: list[int] = []
    for number in sorted(calls):
        if not ticks or number > 1.3 * ticks[-1]:
            ticks.append(number)
    return ticks
