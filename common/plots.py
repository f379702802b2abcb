"""Pictures of examples, one way for each kind of data; and curves of training.

    kind        an example                       its picture
    vectors     (d,)                             a histogram, a scatter plot, or several of them in a corner
    series      (C, L)                           curves, samples beside data
    images      uint8 (H, W, C)                  a grid
    fields      (C, H, W)                        a grid in one colour map, with its bar, samples beside data
    volumes     (C, D, H, W)                     three middle slices, as a field

All are NumPy arrays in data units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from score_sde.common.errors import choose
from score_sde.common.files import write_atomically
from score_sde.common.pictures.answers import answers_figures
from score_sde.common.pictures.fields import fields_figure, volumes_figure
from score_sde.common.pictures.grids import enlarged_grid, image_grid, images_figure, rgb, save_grid, viewable
from score_sde.common.pictures.series import series_figure
from score_sde.common.pictures.vectors import Names, vectors_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Draw = Callable[[np.ndarray, np.ndarray | None, np.ndarray | None, Names], "Figure"]
_SAMPLES_AND_DATA = ("samples", "data")
# Curves are drawn on a logarithmic scale where the largest number is so many times one that is small.
_SPREAD = 10.0
# Pixels between pictures that are laid side by side.
_GAP = 16

# How samples of each kind are drawn, with reference, frame and names.
KINDS: dict[str, _Draw] = {
    "vectors": vectors_figure,
    "series": series_figure,
    "images": images_figure,
    "fields": fields_figure,
    "volumes": volumes_figure,
}


def examples_figure(
    kind: str,
    samples: np.ndarray,
    reference: np.ndarray | None = None,
    *,
    frame: np.ndarray | None = None,
    names: Names = _SAMPLES_AND_DATA,
) -> Figure:
    """Draw samples as suits their kind, over or beside data.

    Args:
        kind: kind of the data, a key of `KINDS`.
        samples: the samples `(N, *shape)`.
        reference: data `(M, *shape)` to compare with; images are shown without.
        frame: examples `(K, *shape)` that axes and colours are taken from; left out, it is the reference, if any.
        names: what samples and reference are called.

    Raises:
        UserError: there is no such kind.
    """
    draw = choose("kind of data", kind, KINDS)
    return draw(samples, None if reference is None or len(reference) == 0 else reference, frame, names)


def save_examples(
    path: str | Path,
    kind: str,
    samples: np.ndarray,
    reference: np.ndarray | None = None,
    *,
    names: Names = _SAMPLES_AND_DATA,
    columns: int | None = None,
) -> None:
    """Write `examples_figure` as a PNG; images are written pixel by pixel, so many `columns` in a row if given.

    Raises:
        UserError: there is no such kind, or the file cannot be written.
    """
    if kind == "images":
        save_grid(path, viewable(samples), columns)
        return
    figure = examples_figure(kind, samples, reference, names=names)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png")


def examples_pixels(
    kind: str,
    samples: np.ndarray,
    reference: np.ndarray | None = None,
    *,
    names: Names = _SAMPLES_AND_DATA,
    columns: int | None = None,
    enlarged: bool = False,
) -> np.ndarray:
    """Return the pixels of `examples_figure`, uint8 `(H, W, 3)`; images are as large as they are, or `enlarged`."""
    if kind == "images":
        return rgb((enlarged_grid if enlarged else image_grid)(viewable(samples), columns))
    return pixels(examples_figure(kind, samples, reference, names=names))


def save_answers(
    path: str | Path, kind: str, inputs: np.ndarray, observed: np.ndarray | None, answers: np.ndarray
) -> None:
    """Write `answers_figures`, one below the other, as a PNG.

    Raises:
        UserError: the file cannot be written.
    """
    save_pixels(path, [pixels(each) for each in answers_figures(kind, inputs, observed, answers)], abreast=False)


def save_pixels(path: str | Path, pictures: Sequence[np.ndarray], abreast: bool) -> None:
    """Write pictures, uint8 `(H, W, 3)` each, as one PNG: side by side or one below the other, on white.

    Raises:
        UserError: the file cannot be written.
    """
    from PIL import Image

    axis = 1 if abreast else 0
    across = max(each.shape[1 - axis] for each in pictures)
    laid: list[np.ndarray] = []
    for each in pictures:
        room = [(0, 0), (0, 0), (0, 0)]
        room[1 - axis] = (0, across - each.shape[1 - axis])
        room[axis] = (_GAP if laid else 0, 0)
        laid.append(np.pad(each, room, constant_values=255))
    with write_atomically(path) as temporary:
        Image.fromarray(np.concatenate(laid, axis)).save(temporary, format="PNG")


def frames(kind: str, states: Sequence[np.ndarray], reference: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Draw the same samples at several times, as the frames of a film.

    Axes and colours are those of the last frame, all along.

    Args:
        kind: kind of the data, a key of `KINDS`.
        states: what samples are at each time, each `(N, *shape)`.
        reference: data `(M, *shape)` to compare with.

    Yields:
        The pixels of a frame, uint8 `(H, W, 3)`, all of one size.
    """
    for state in states:
        if kind == "images":
            yield rgb(enlarged_grid(viewable(state)))
        else:
            yield pixels(examples_figure(kind, state, reference, frame=states[-1]))


def pixels(figure: Figure) -> np.ndarray:
    """Return the pixels of a figure, uint8 `(H, W, 3)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def curves_figure(curves: Mapping[str, Mapping[str, Mapping[int, float]]]) -> Figure:
    """Plot numbers by training step, a panel for each group of curves: `curves[panel][name][step]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6 * len(curves)), dpi=100, layout="constrained")
    for row, (panel, group) in enumerate(curves.items()):
        axes = figure.add_subplot(len(curves), 1, row + 1)
        for name, values in group.items():
            label = name.rpartition("/")[2].replace("_", " ")
            axes.plot(list(values), list(values.values()), label=label, marker="." if len(values) < 20 else "")
        axes.set(ylabel=panel, yscale=scale_of([value for values in group.values() for value in values.values()]))
        axes.legend(fontsize=7, ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="training step")
    return figure


def scale_of(values: Sequence[float]) -> str:
    """Return the scale on which to draw numbers: logarithmic, if the larger ones would hide the others."""
    positive = min(values) > 0
    return "log" if positive and max(values) > _SPREAD * float(np.quantile(values, 0.25)) else "linear"
