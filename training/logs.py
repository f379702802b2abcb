"""TensorBoard event files of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch.utils.tensorboard import SummaryWriter

from errors import UserError
from evaluation.plots import image_grid, scatter_figure


class Log:
    """Scalars and pictures of a run, for TensorBoard.

    Args:
        folder: where the event files go.
        step: training steps done so far; what an earlier, killed run logged after them is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._show_thread_error = threading.excepthook
        threading.excepthook = self._skip_full_disk
        with self._writing():
            self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write named numbers."""
        with self._writing():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def samples(self, step: int, samples: np.ndarray) -> None:
        """Write a grid of uint8 images `(N, H, W, C)` or a scatter plot of points `(N, 2)`; nothing for others."""
        with self._writing():
            if samples.ndim == 4:
                self._writer.add_image("samples", image_grid(samples), step, dataformats="HWC")
            elif samples.shape[1:] == (2,):
                canvas = FigureCanvasAgg(scatter_figure(samples))
                canvas.draw()
                self._writer.add_image("samples", np.asarray(canvas.buffer_rgba())[..., :3], step, dataformats="HWC")

    def flush(self) -> None:
        """Make what was logged so far safe."""
        with self._writing():
            self._writer.flush()

    def close(self) -> None:
        """Write the rest and close the file."""
        try:
            with self._writing():
                self._writer.close()
        finally:
            threading.excepthook = self._show_thread_error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self._folder}: {error.strerror or error}") from error

    def _skip_full_disk(self, arguments: threading.ExceptHookArgs) -> None:
        """The writer's thread meets a full disk first, and hands the error over to the next call, which reports it."""
        if not issubclass(arguments.exc_type, OSError):
            self._show_thread_error(arguments)
