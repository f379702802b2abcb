"""The teacher of a few-step model: a trained run, whose flow is learnt, perhaps guided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, naming
from score_sde.common.score import no_score
from score_sde.control import Guided
from score_sde.data import Dataset
from score_sde.experiment import other_run
from score_sde.experiment.couplings import INDEPENDENT
from score_sde.models import Given
from score_sde.sde import SDE


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
        return Guided(given, Given(self.model, None), self.guidance)


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
        teacher, trained_with = other_run.load(config.training.teacher, "a teacher", config, dataset, sde)
    if no_score(teacher) and config.training.coupling == INDEPENDENT:
        raise UserError(
            f"training.teacher={config.training.teacher} is a flow and no score, and so is what learns from it: "
            f"--config.training.coupling={trained_with.training.coupling}"
        )
    return RunAsTeacher(teacher, config.training.guidance)
