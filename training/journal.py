"""What a run tells of its steps: a bar or lines on the screen, numbers in the log, notes of spikes.

A line has means over the steps since the last one. What was done since then is kept in checkpoints as `unlogged`, so
that a run that was killed writes the lines of one that was not.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from score_sde.common import distributed
from score_sde.training.logs import Log, Preview
from score_sde.training.loss_means import LossMeans
from score_sde.training.objectives import Losses

# A loss that is so many times the largest of the last steps is worth a word.
_SPIKE, _REMEMBERED = 5.0, 100


class Journal:
    """The steps of a run are noted here as their numbers come in, and told by the line.

    Args:
        folder: folder of the run.
        config: the section `training`.
        unit: what examples are called.
        means: the losses that are told apart, beside the loss.

    Attributes:
        loss: loss of the last step noted.
        seconds: time taken by the steps since the last line.
    """

    def __init__(self, folder: Path, config: ConfigDict, unit: str, means: LossMeans | None) -> None:
        self.loss = float("nan")
        self.seconds = 0.0
        self._folder = folder
        self._config = config
        self._unit = unit
        self._means = means
        self._losses: list[float] = []
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)
        self._log: Log | None = None
        self._bar: tqdm | None = None

    @contextmanager
    def opened(self, step: int) -> Iterator[None]:
        """Show a bar and write a log within the block, from this step on; of several processes the first one does."""
        self._recent.clear()
        first = distributed.rank() == 0
        self._log = Log(self._folder, step) if first else None
        # With None, tqdm shows its bar on a terminal only.
        hidden = None if first else True
        try:
            with tqdm(
                total=self._config.num_steps, initial=step, unit="step", dynamic_ncols=True, disable=hidden
            ) as self._bar:
                yield
        finally:
            if self._log is not None:
                self._log.close()

    def advance(self) -> None:
        """Move the bar on by a step that has been told to the device."""
        assert self._bar is not None
        self._bar.update()

    def note(self, step: int, loss: float, losses: Losses | None) -> None:
        """Note the loss of a step, and those of its examples; say so if it is a spike."""
        self.loss = loss
        if self._config.log_every:
            self._losses.append(loss)
        if self._means is not None and losses is not None:
            self._means.add(losses)
        highest = max(self._recent, default=0.0)
        # Of losses that may be negative, such as densities, no multiple tells anything.
        if len(self._recent) == _REMEMBERED and loss > _SPIKE * highest > 0:
            self._say(
                f"note: step {step}: the loss is {loss:.3g}; the last {_REMEMBERED} were below {highest:.3g}",
                sys.stderr,
            )
        self._recent.append(loss)

    def line(self, step: int, learning_rate: float) -> None:
        """Tell the means since the last line, and begin anew; all processes must ask."""
        speed = len(self._losses) * self._config.batch_size / self.seconds
        loss = float(np.mean(self._losses))
        values = {"loss": loss, f"{self._unit}_per_second": speed, "learning_rate": learning_rate}
        if self._means is not None:
            values |= self._means.take()
        memory = peak_memory()
        state = f"loss {loss:.4f}, {speed:.0f} {self._unit}/s" + (f", {memory:.2g} GB" if memory else "")
        assert self._bar is not None
        self._bar.set_postfix_str(state)
        if self._log is not None and self._bar.disable:
            # Without a terminal a line tells of progress now and then.
            left = (self._config.num_steps - step) * self._config.batch_size / speed
            print(f"step {step} of {self._config.num_steps}: {state}, {left:.0f} s left", flush=True)
        self._losses, self.seconds = [], 0.0
        self._scalars(step, values)

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        """Tell what was measured of the model after a step, beside its loss."""
        numbers = {"loss": self.loss, **values}
        self._say(f"step {step}: " + ", ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in numbers.items()))
        self._scalars(step, values)

    def samples(self, step: int, preview: Preview) -> None:
        """Write a picture of samples."""
        if self._log is not None:
            self._log.samples(step, preview)

    def flush(self) -> None:
        """Make safe what was logged so far."""
        if self._log is not None:
            self._log.flush()

    def unlogged(self) -> dict[str, Any]:
        """Return what the next line will tell of the steps so far; all processes must ask."""
        # Named for those that were there first.
        means = {} if self._means is None else {"by_noise": self._means.sums()}
        losses = torch.tensor(self._losses, dtype=torch.float64)
        return {"losses": losses, "seconds": self.seconds, **means}

    def restore(self, unlogged: Mapping[str, Any]) -> None:
        """Restore what `unlogged` returned, to go on from there."""
        self._losses, self.seconds = unlogged["losses"].tolist(), unlogged["seconds"]
        if self._means is not None and "by_noise" in unlogged:
            self._means.restore(unlogged["by_noise"])

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._log is not None:
            self._log.scalars(step, values)

    def _say(self, line: str, file: Any = None) -> None:
        """Print a line above the bar, once for all processes."""
        if self._log is not None and self._bar is not None:
            self._bar.write(line, file=file)


def peak_memory() -> float | None:
    """Return the most memory, of its GPU if it has one, that this process has used, in GB; None where none can say."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:
        # Windows has no such module.
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
