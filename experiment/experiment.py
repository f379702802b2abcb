"""An experiment: a configuration, its data, a model, the folder of the run, and the checkpoint that the weights are of.

Everything that can be done with a model begins with one. `load` makes them: to train, with initial weights, or to use,
with those of a checkpoint (or with a mixture of Gaussians, which needs no training). The other modules of this room say
what is done with it, and `modes/` prints what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde.data import Dataset
from score_sde.experiment.checkpoints import Found
from score_sde.experiment.configuration import Overrides


@dataclass(frozen=True)
class Experiment:
    """An experiment holds what a mode works with.

    Attributes:
        config: the configuration.
        dataset: the data; without examples, where none are needed.
        model: the model, on the device.
        folder: the folder of the run.
        found: the checkpoint that the weights are of; None in training, and for a mixture.
        overrides: the values that were set by hand.
    """

    config: ConfigDict
    dataset: Dataset
    model: Any
    folder: Path
    found: Found | None = None
    overrides: Overrides = ()

    @property
    def path(self) -> Path | None:
        """The path is that of the checkpoint's file or folder, or its name on the hub; None without a checkpoint."""
        return None if self.found is None else self.found.path
