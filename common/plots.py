"""Pictures of samples: grids of images and scatter plots of points in the plane."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from score_sde.common.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Small images are enlarged, without smoothing, until their longer side has about this many pixels.
_SIDE = 48
_GAP = 1
_GAP_VALUE = 128


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Arrange images row by row, one grey pixel apart.

    Args:
        images: uint8, `(N, H, W, C)`.
        columns: images in a row; the nearest to a square if left out.

    Returns:
        uint8, `(height, width, C)`.

    Raises:
        ValueError: `images` is not a non-empty uint8 array of four dimensions.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"a grid needs uint8 images of shape (N, H, W, C), not {images.dtype} {images.shape}")
    count, height, width, channels = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    cell_height, cell_width = height + _GAP, width + _GAP
    grid = np.full((rows * cell_height + _GAP, columns * cell_width + _GAP, channels), _GAP_VALUE, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * cell_height + _GAP, (index % columns) * cell_width + _GAP
        grid[top : top + height, left : left + width] = image
    return grid


def save_grid(path: str | Path, images: np.ndarray, columns: int | None = None) -> None:
    """Write `image_grid(images, columns)` as a PNG, small images enlarged so that one can look at them.

    Raises:
        ValueError: `image_grid` does not take `images`, or they have neither 1, 3 nor 4 channels.
        UserError: the file cannot be written.
    """
    from PIL import Image

    grid = image_grid(images, columns)
    channels = grid.shape[2]
    if channels not in (1, 3, 4):
        raise ValueError(f"a picture has 1, 3 or 4 channels, not {channels}")
    scale = max(1, round(_SIDE / max(images.shape[1:3])))
    enlarged = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    with write_atomically(path) as temporary:
        Image.fromarray(enlarged[..., 0] if channels == 1 else enlarged).save(temporary, format="PNG")


def scatter_figure(points: np.ndarray, reference: np.ndarray | None = None) -> Figure:
    """Plot points in the plane `(N, 2)`, over reference points `(M, 2)` in grey where these are given.

    The axes are the reference's, a tenth wider, so that pictures of several solvers can be laid side by side; how
    many points fall outside is written in the title.

    Raises:
        ValueError: points are not in the plane.
    """
    from matplotlib.figure import Figure

    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"a scatter plot needs points of shape (N, 2), not {points.shape}")
    frame = points if reference is None else reference
    low, high = frame.min(0), frame.max(0)
    margin = 0.1 * max(float((high - low).max()), 1e-12)
    low, high = low - margin, high + margin
    outside = int(((points < low) | (points > high)).any(1).sum())

    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(3000 / len(points), 1, 12))
    if reference is not None:
        axes.scatter(reference[:, 0], reference[:, 1], s=size, c="0.75", linewidths=0, label=f"data ({len(reference)})")
    axes.scatter(
        points[:, 0], points[:, 1], s=size, c="#0b6aa2", alpha=0.6, linewidths=0, label=f"samples ({len(points)})"
    )
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set_title(f"{outside} of {len(points)} samples lie outside" if outside else "", fontsize=9)
    axes.legend(loc="upper right", fontsize=8, markerscale=2, framealpha=0.9)
    return figure


def save_scatter(path: str | Path, points: np.ndarray, reference: np.ndarray | None = None) -> None:
    """Write `scatter_figure(points, reference)` as a PNG.

    Raises:
        ValueError: points are not in the plane.
        UserError: the file cannot be written.
    """
    figure = scatter_figure(points, reference)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png")


def curves_figure(curves: Mapping[str, Mapping[str, Mapping[int, float]]]) -> Figure:
    """Plot numbers by training step, a panel for each group of curves: `curves[panel][name][step]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6 * len(curves)), dpi=100, layout="constrained")
    for row, (panel, group) in enumerate(curves.items()):
        axes = figure.add_subplot(len(curves), 1, row + 1)
        for name, values in group.items():
            axes.plot(list(values), list(values.values()), label=name, marker="." if len(values) < 20 else "")
        axes.set(ylabel=panel, yscale="log" if all(v > 0 for g in group.values() for v in g.values()) else "linear")
        axes.legend(fontsize=7, ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="training step")
    return figure
