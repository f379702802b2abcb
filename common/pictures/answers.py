"""What was given, what was observed of it, and answers: one picture for each of a few inputs.

Of vectors and series these are curves, over columns (in standard deviations) or times: what was observed in black, the
input dashed, answers in blue. Of fields and volumes they lie side by side, in the colours of the input; what is hidden
is white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from score_sde.common.pictures.fields import fields_figure, volumes_figure
from score_sde.common.pictures.vectors import BLUE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_INPUTS = 4
_MOST_CHANNELS = 5


def answers_figures(kind: str, inputs: np.ndarray, observed: np.ndarray | None, answers: np.ndarray) -> list[Figure]:
    """Draw the first inputs `(M, *shape)` with their answers `(M, K, *shape)`; one figure each.

    Args:
        kind: "vectors", "series", "fields" or "volumes".
        inputs: what was given; vectors in model units.
        observed: what was observed of each, with NaN where it is hidden; None where nothing is.
        answers: the answers to each.
    """
    draw = _curves if kind in ("vectors", "series") else _colours
    return [
        draw(kind, inputs[row], None if observed is None else observed[row], answers[row], row)
        for row in range(min(MOST_INPUTS, len(inputs)))
    ]


def _curves(kind: str, given: np.ndarray, seen: np.ndarray | None, answers: np.ndarray, number: int) -> Figure:
    """Draw one input `(C, L)` with answers `(K, C, L)`, a row for each channel; a vector `(d,)` in a single row."""
    from matplotlib.figure import Figure

    if kind == "vectors":
        given, answers, seen = given[None], answers[:, None], None if seen is None else seen[None]
    rows = min(_MOST_CHANNELS, len(given))
    figure = Figure(figsize=(7, 1.7 * rows + 0.6), dpi=100, layout="constrained")
    marker = "o" if given.shape[1] < 30 else ""
    for channel, axes in enumerate(figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0]):
        for k, answer in enumerate(answers):
            label = f"{len(answers)} answers" if k == 0 else None
            axes.plot(answer[channel], color=BLUE, linewidth=0.8, marker=marker, markersize=3, alpha=0.6, label=label)
        axes.plot(given[channel], color="black", linewidth=0.9, linestyle="--", label=f"input {number}")
        if seen is not None:
            axes.plot(seen[channel], color="black", linewidth=1.6, marker=marker, markersize=3, label="observed")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        if len(given) > 1:
            axes.set_ylabel(f"channel {channel}", fontsize=8)
    axes.set_xlabel("time" if kind == "series" else "column", fontsize=8)
    if kind == "vectors":
        axes.set_ylabel("standard deviations", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].legend(fontsize=7, ncols=3, loc="best")
    return figure


def _colours(kind: str, given: np.ndarray, seen: np.ndarray | None, answers: np.ndarray, number: int) -> Figure:
    """Draw one input `(C, *sizes)` with answers `(K, C, *sizes)`, in the colours of the input."""
    draw = fields_figure if kind == "fields" else volumes_figure
    shown = np.concatenate([given[None], *([] if seen is None else [seen[None]]), answers])
    what = f"input {number}" + ", observed" * (seen is not None) + f", {len(answers)} answers"
    return draw(shown, None, given[None], (what, ""))
