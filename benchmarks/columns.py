"""Pictures in columns, each with a title: what was asked for beside what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from score_sde.common.files import write_atomically

INCHES, TITLES, DOTS = 1.0, 0.4, 80


def save_columns(path: Path, columns: Mapping[str, np.ndarray], black: float = 0.0, white: float = 255.0) -> None:
    """Write grey pictures `(N, 1, H, W)` of each title, one below another; sizes may differ between columns."""
    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(INCHES * len(columns), INCHES * rows + TITLES))
    for place, (title, pictures) in enumerate(columns.items(), 1):
        for row, picture in enumerate(pictures):
            axes = figure.add_subplot(rows, len(columns), row * len(columns) + place)
            axes.imshow(picture[0], cmap="gray", vmin=black, vmax=white)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=10)
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.01, top=1 - TITLES / figure.get_figheight(), wspace=0.06, hspace=0.06
    )
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=DOTS)
    print(path)
