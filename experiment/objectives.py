"""From the section `training` of a configuration to the loss it describes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ml_collections import ConfigDict

from score_sde.common.errors import UserError, choose
from score_sde.experiment import own
from score_sde.experiment.couplings import make_coupling
from score_sde.experiment.networks import CLASSIFIERS, JOINT_EMBEDDING
from score_sde.sde import SDE
from score_sde.sde.times import TimeShape, get_time_distribution
from score_sde.training.classification import Classification
from score_sde.training.contrastive import Contrastive
from score_sde.training.flow_map import LagrangianMatching, Teacher
from score_sde.training.hybrid import HybridObjective
from score_sde.training.objectives import Objective, get_discrete_objective, get_objective
from score_sde.training.variational import VariationalBound

# How rungs are drawn for the hybrid objective.
UNIFORM, LOSS_AWARE = HYBRID_TIMES = ("uniform", "loss_aware")


def make_objective(
    config: ConfigDict, sde: SDE, teacher: Teacher | None = None
) -> _Made | Classification | Contrastive | own.OwnObjective:
    """Make the loss of the section `training`; the `teacher` is for flow maps and reflow."""
    training = config.training
    if own.is_own(training.objective):
        return own.OwnObjective(own.find("objective", training.objective))
    if config.model.network == JOINT_EMBEDDING:
        return Contrastive()
    if config.model.network in CLASSIFIERS:
        times = get_time_distribution(training.times, sde, training.t_min, _time_shape(config))
        return Classification(times, training.stratified)
    return choose("objective", training.objective, OBJECTIVES)(config, sde, teacher)


def _discrete_objective(config: ConfigDict, sde: SDE, teacher: Teacher | None = None) -> Objective:
    training = config.training
    return get_discrete_objective(
        sde,
        stratified=training.stratified,
        reduce_mean=training.reduce_mean,
        coupling=make_coupling(config, teacher),
    )


def _hybrid_objective(config: ConfigDict, sde: SDE, teacher: Teacher | None = None) -> HybridObjective:
    training = config.training
    if sde.ladder is None:
        raise UserError("training.objective=hybrid is for ladders: --config.sde.name=cosine, or ddpm")
    if training.times not in HYBRID_TIMES:
        raise UserError(f"training.objective=hybrid has training.times={' or '.join(HYBRID_TIMES)}")
    if not training.reduce_mean:
        raise UserError("training.objective=hybrid averages over dimensions: --config.training.reduce_mean=True")
    loss_aware = training.times == LOSS_AWARE
    return HybridObjective(sde.ladder, loss_aware, training.vlb_weight, training.stratified)


def _continuous_objective(config: ConfigDict, sde: SDE, teacher: Teacher | None = None) -> Objective:
    training = config.training
    return get_objective(
        sde,
        weighting=training.weighting,
        times=training.times,
        t_min=training.t_min,
        stratified=training.stratified,
        reduce_mean=training.reduce_mean,
        shape=_time_shape(config),
        data_std=config.model.data_std,
        coupling=make_coupling(config, teacher),
    )


def _time_shape(config: ConfigDict) -> TimeShape:
    training = config.training
    return TimeShape(
        training.edm_mean,
        training.edm_std,
        training.logit_mean,
        training.logit_std,
        training.mode_scale,
        training.time_shift,
    )


def _lagrangian_objective(config: ConfigDict, sde: SDE, teacher: Teacher | None) -> LagrangianMatching:
    denoising = _continuous_objective(config, sde) if teacher is None else None
    return LagrangianMatching(sde, teacher, denoising, config.training.t_min)


# The keys of the section `training` that an objective draws or weighs no times by.
_UNUSED = {
    "discrete": ("weighting", "times", "t_min"),
    "hybrid": ("weighting", "t_min"),
    "variational": ("weighting", "times", "t_min"),
}


def unused_keys(objective: str, keys: Iterable[str]) -> list[str]:
    """Return those of the given keys of the section `training` that an objective of this name does not use."""
    return [key for key in keys if key in _UNUSED.get(objective, ())]


_Made = Objective | HybridObjective | LagrangianMatching | VariationalBound
OBJECTIVES: dict[str, Callable[[ConfigDict, SDE, Teacher | None], _Made]] = {
    "discrete": _discrete_objective,
    "hybrid": _hybrid_objective,
    "continuous": _continuous_objective,
    "lagrangian": _lagrangian_objective,
    "variational": lambda config, sde, teacher: VariationalBound(config.training.stratified),
}
