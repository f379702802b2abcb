"""Grids of images."""

from __future__ import annotations

import math
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
_DPI = 100


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


def enlarged_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Return `image_grid(images, columns)`, small images enlarged so that one can look at them."""
    scale = max(1, round(_SIDE / max(images.shape[1:3])))
    return image_grid(images, columns).repeat(scale, axis=0).repeat(scale, axis=1)


def save_grid(path: str | Path, images: np.ndarray, columns: int | None = None) -> None:
    """Write `enlarged_grid(images, columns)` as a PNG.

    Raises:
        ValueError: `image_grid` does not take `images`, or they have neither 1, 3 nor 4 channels.
        UserError: the file cannot be written.
    """
    from PIL import Image

    grid = enlarged_grid(images, columns)
    channels = grid.shape[2]
    if channels not in (1, 3, 4):
        raise ValueError(f"a picture has 1, 3 or 4 channels, not {channels}")
    with write_atomically(path) as temporary:
        Image.fromarray(grid[..., 0] if channels == 1 else grid).save(temporary, format="PNG")


def viewable(images: np.ndarray) -> np.ndarray:
    """Return images `(N, H, W, C)` that can be shown: of two or more than four channels each becomes a grey image."""
    return images if images.shape[-1] in (1, 3, 4) else np.concatenate(np.split(images, images.shape[-1], axis=-1), 2)


def rgb(grid: np.ndarray) -> np.ndarray:
    """Return a picture `(H, W, C)` of 1, 3 or 4 channels in colours, `(H, W, 3)`; the fourth channel is left out."""
    return np.ascontiguousarray(np.broadcast_to(grid[..., :3], (*grid.shape[:2], 3)))


def images_figure(
    images: np.ndarray, reference: np.ndarray | None, frame: np.ndarray | None, names: tuple[str, str]
) -> Figure:
    """Show a grid of images `(N, H, W, C)`, a pixel of the figure for each of its own; the rest is not shown."""
    from matplotlib.figure import Figure

    grid = enlarged_grid(viewable(images))
    figure = Figure(figsize=(grid.shape[1] / _DPI, grid.shape[0] / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(rgb(grid), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return figure
