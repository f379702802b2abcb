"""Which noise goes with which data in training, as `training.coupling` has it, and what is left of the score."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from score_sde.common.errors import UserError
from score_sde.experiment.networks import CLASSIFIERS
from score_sde.sde import SDE
from score_sde.solvers import get_solver
from score_sde.training.couplings import Coupling, Reflow, optimal_transport
from score_sde.training.flow_map import Teacher

INDEPENDENT, OPTIMAL_TRANSPORT, REFLOW = COUPLINGS = ("independent", "ot", "reflow")

# Why a model that was trained with a coupling has no score.
_REASONS = {
    INDEPENDENT: "",
    OPTIMAL_TRANSPORT: "its network was trained on data and noise that optimal transport paired",
    REFLOW: "its network was trained on the ends of another model's trajectories",
}


def why_no_score(config: ConfigDict) -> str:
    """Return why the model of a configuration has no score; empty if it has one."""
    return _REASONS[config.training.coupling]


def make_coupling(config: ConfigDict, teacher: Teacher | None) -> Coupling | None:
    """Make the coupling of the section `training`; None for independent pairs, and where the teacher is not loaded."""
    training = config.training
    if training.coupling == OPTIMAL_TRANSPORT:
        return optimal_transport
    if training.coupling == REFLOW and teacher is not None:
        return Reflow(teacher, get_solver("default", num_steps=training.reflow_steps))
    return None


def check_pairs(config: ConfigDict, told: Sequence[str]) -> None:
    """See that optimal transport pairs examples of which many are told the same, when it is known what they are told.

    Raises:
        UserError: each is told something of its own.
    """
    if config.training.coupling == OPTIMAL_TRANSPORT and told:
        raise UserError(
            "training.coupling=ot pairs examples of which the model is told the same, and each has its own "
            f"{told[0]}: take training.coupling={INDEPENDENT}"
        )


def check_coupling(config: ConfigDict, sde: SDE) -> None:
    """See that pairs that are not independent have a model which can learn from them.

    Raises:
        UserError: they have not.
    """
    training, model = config.training, config.model
    if training.coupling == INDEPENDENT:
        return
    where = f"training.coupling={training.coupling}"
    if model.network in CLASSIFIERS or training.objective not in ("continuous", "discrete", "lagrangian"):
        raise UserError(f"{where} is for score matching: take training.coupling={INDEPENDENT}")
    if model.prediction == "levels":
        raise UserError(
            f"{where} needs another prediction than levels, whose noise is that of independent pairs: "
            "--config.model.prediction=flow"
        )
    if sde.ends_in_noise and model.prediction in ("noise", "score"):
        raise UserError(
            f"{where} needs another prediction than {model.prediction}, which says nothing of the data where nothing "
            "is left of them: --config.model.prediction=flow"
        )
    if config.data.missing or config.data.masks:
        raise UserError(f"{where} pairs whole examples with noise: data.missing=False, and no data.masks")
    if (training.coupling == REFLOW) != (training.teacher is not None) and training.objective != "lagrangian":
        raise UserError(
            "training.coupling=reflow learns from the trajectories of a trained run: name it by training.teacher"
        )
    if training.coupling == REFLOW and training.objective == "lagrangian" and training.teacher is None:
        raise UserError("training.coupling=reflow is a few-step model's if it is its teacher's: training.teacher")
