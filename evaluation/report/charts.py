"""Curves by training step as vector graphics, made of numbers alone, so that a page is written in no time.

A chart is `WIDTH` by `HEIGHT` units; curves lie right of `LEFT` and above `BOTTOM`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from score_sde.common.plots import scale_of

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 408, 10, 200
COLOURS = ("#0b6aa2", "#d9730d", "#2e8b57", "#b3202c", "#7a5195", "#8c564b", "#c2579e", "#6b7580")
_MOST_TICKS = 6
# Longer curves are thinned.
_MOST_POINTS = 1000


class Curve(NamedTuple):
    """A curve has a name, a colour, and the points of its line, as SVG has them."""

    name: str
    colour: str
    points: str


class Tick(NamedTuple):
    """A tick has a place along its axis, and a label."""

    place: float
    label: str


class Chart(NamedTuple):
    """A chart has a title, curves, and ticks below and on the left."""

    title: str
    curves: list[Curve]
    steps: list[Tick]
    values: list[Tick]


def chart(title: str, group: Mapping[str, Mapping[int, float]]) -> Chart | None:
    """Return the chart of named curves, each by step; None if none of their numbers is finite."""
    finite = {name: {k: v for k, v in curve.items() if math.isfinite(v)} for name, curve in group.items()}
    steps = sorted({step for curve in finite.values() for step in curve})
    if not steps:
        return None
    numbers = [value for curve in finite.values() for value in curve.values()]
    logarithmic = scale_of(numbers) == "log"
    low, high = min(numbers), max(numbers)
    margin = 0.05 * (math.log(high / low) if logarithmic else high - low) or 0.05 * abs(high) or 1.0
    low, high = (low * math.exp(-margin), high * math.exp(margin)) if logarithmic else (low - margin, high + margin)

    def across(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * (step - steps[0]) / max(steps[-1] - steps[0], 1)

    def up(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
        return BOTTOM - (BOTTOM - TOP) * share

    curves = [
        Curve(
            name.rpartition("/")[2].replace("_", " "),
            COLOURS[index % len(COLOURS)],
            " ".join(f"{across(step):.1f},{up(curve[step]):.1f}" for step in _thinned(sorted(curve))),
        )
        for index, (name, curve) in enumerate(finite.items())
    ]
    places = log_ticks(low, high) if logarithmic else ticks(low, high)
    below = [Tick(across(step), f"{step:,.0f}") for step in ticks(steps[0], steps[-1]) if step == round(step)]
    return Chart(title, curves, below, [Tick(up(place), f"{place:.6g}") for place in places])


def ticks(low: float, high: float) -> list[float]:
    """Return some multiples of 1, 2 or 5 times a power of ten between these."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(step for factor in (1, 2, 5, 10, 20) if (high - low) / (step := factor * power) < _MOST_TICKS)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between these; 2 and 5 times such, too, where there would be few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(decades) > 2:
        return decades[:: -(-len(decades) // _MOST_TICKS)]
    return [tick for power in powers for factor in (1, 2, 5) if low <= (tick := factor * 10.0**power) <= high]


def _thinned(steps: Sequence[int]) -> Sequence[int]:
    every = -(-len(steps) // _MOST_POINTS)
    # A line from a point to itself is a dot.
    return [*steps[:-1:every], *steps[-1:]] if len(steps) > 1 else [*steps, *steps]
