"""The teacher of a few-step model: a trained run, whose flow is learnt, perhaps guided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home
from score_sde.control import Guided
from score_sde.data import Dataset
from score_sde.experiment import checkpoints, configuration
from score_sde.models import Given, NoisyClassifier
from score_sde.sde import SDE
from score_sde.training import checkpoint

# Where two processes are compared, in parts of T.
_PLACES = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True)
class RunAsTeacher:
    """A trained model is the teacher of a batch, given its condition.

    Attributes:
        model: the trained model.
        guidance: the scale of classifier-free guidance; 1 for none.
    """

    model: Any
    guidance: float = 1.0

    def __call__(self, condition: Condition | None) -> Given | Guided:
        """Return the model under a condition, led away from what it is where the class is hidden."""
        given = Given(self.model, condition)
        if self.guidance == 1 or condition is None:
            return given
        return Guided(given, Given(self.model, condition.hidden("class")), self.guidance)


def place_of(config: ConfigDict) -> Path:
    """Return the checkpoint that `training.teacher` names, or the newest one of the run."""
    place = at_home(config.training.teacher)
    return checkpoint.latest(place / "checkpoints") or place


def make_teacher(config: ConfigDict, dataset: Dataset, sde: SDE) -> RunAsTeacher | None:
    """Load the teacher that the section `training` names; None if none is named.

    Args:
        config: the configuration of the few-step model.
        dataset: the data that it is trained on.
        sde: its process.

    Raises:
        UserError: there is no such run, or it is of other data or another process.
    """
    if config.training.teacher is None:
        return None
    with naming("training.teacher"):
        found = checkpoints.find(place_of(config))
        if found.config is None:
            raise UserError(f"{found.path} does not say what it was trained with: a teacher is a run of this project")
        trained_with = configuration.from_dict(found.config, str(found.path))
        for key in ("data.low", "data.high", "data.uniform_dequantisation"):
            if key in configuration.differences(config, trained_with, ("data",)):
                raise UserError(f"{found.path} was trained with another {key}: give the same")
        teacher = found.make_model(trained_with, dataset)
        if isinstance(teacher, NoisyClassifier):
            raise UserError(f"{found.path} is a classifier, which has no flow")
        _check_same(sde, teacher.sde, str(found.path))
    return RunAsTeacher(teacher.to(distributed.device()).eval().requires_grad_(False), config.training.guidance)


def _check_same(sde: SDE, other: SDE, where: str) -> None:
    """Raise `UserError` unless two processes have the same marginals."""
    places = torch.tensor(_PLACES, dtype=torch.float64)
    if sde.T == other.T:
        here, there = sde.at(places * sde.T), other.at(places * other.T)
        if torch.allclose(here.alpha, there.alpha, rtol=1e-6) and torch.allclose(here.sigma, there.sigma, rtol=1e-6):
            return
    raise UserError(f"{where} was trained with another process: give the same section sde")
