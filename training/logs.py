"""What a run writes down while it trains.

logs/                         TensorBoard event files
metrics.csv                   the same numbers, one row a step at which there are any
metrics.png                   the same as curves, when training ends
previews/step_0002000.png     samples from the same noise each time
"""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.common.metrics import LEARNING_RATE, by_panel, read_rows
from score_sde.common.plots import curves_figure, examples_pixels, save_examples

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Preview(NamedTuple):
    """A preview has samples of a model in training, to be looked at.

    Attributes:
        kind: kind of the data, as `common.plots` has it.
        samples: the samples `(N, *shape)`, in data units.
        reference: data `(M, *shape)` to show them beside, if any.
    """

    kind: str
    samples: np.ndarray
    reference: np.ndarray | None = None


class Log:
    """Scalars and pictures of a run are written down here.

    Args:
        folder: folder of the run.
        step: training steps done so far; what an earlier, killed run logged after them is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder / "logs"
        self._table = folder / "metrics.csv"
        self._previews = folder / "previews"
        self._rows = {row: values for row, values in read_rows(self._table).items() if row <= step}
        self._show_thread_error = threading.excepthook
        threading.excepthook = self._skip_full_disk
        self._step = step

    @cached_property
    def _writer(self) -> SummaryWriter:
        """TensorBoard's writer, which takes a while to import, is made when there is something to write."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=self._step + 1 if self._step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write named numbers."""
        self._rows.setdefault(step, {}).update({name: f"{value:.6g}" for name, value in values.items()})
        with self._writing():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def samples(self, step: int, preview: Preview) -> None:
        """Write a picture of samples."""
        with self._writing():
            save_examples(self._previews / f"step_{step:07d}.png", *preview)
            self._writer.add_image("samples", examples_pixels(*preview), step, dataformats="HWC")

    def flush(self) -> None:
        """Make what was logged so far safe."""
        with self._writing():
            if "_writer" in vars(self):
                self._writer.flush()
        if self._rows:
            names = list(dict.fromkeys(name for values in self._rows.values() for name in values))
            with write_atomically(self._table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["step", *names])
                writer.writeheader()
                writer.writerows({"step": step, **values} for step, values in sorted(self._rows.items()))

    def close(self) -> None:
        """Write the rest and close the files."""
        try:
            self.flush()
            self._draw_curves()
            with self._writing():
                if "_writer" in vars(self):
                    self._writer.close()
        finally:
            threading.excepthook = self._show_thread_error

    def _draw_curves(self) -> None:
        curves = {panel: group for panel, group in by_panel(self._rows).items() if panel != LEARNING_RATE}
        if curves:
            with write_atomically(self._table.with_suffix(".png")) as temporary:
                curves_figure(curves).savefig(temporary, format="png")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"cannot write {self._folder}: {reason}; free some space or choose another --workdir"
            ) from error

    def _skip_full_disk(self, arguments: threading.ExceptHookArgs) -> None:
        """Leave a full disk, which the writer's thread meets first, to the next call, which reports it."""
        if not issubclass(arguments.exc_type, OSError):
            self._show_thread_error(arguments)
