"""From the keys `sampling.variance` and `likelihood.variance` to models whose steps have that variance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from score_sde.common import distributed
from score_sde.common.errors import UserError, choose
from score_sde.evaluation.likelihood.bounds import ExampleBound
from score_sde.experiment.experiment import Experiment
from score_sde.models.analytic_variance import FixedVariance, JacobianVariance, MeasuredVariance, measure_variance

# Held-out examples that errors are measured on.
_NUM_EXAMPLES = 512
# By name: the data's standard deviation, where steps would be right.
_FIXED = {"fixed": 0.0, "fixed_large": 1.0}
# By name: whether each number has a variance of its own.
_MEASURED = {"errors": False, "errors_each": True}
_OF_DERIVATIVES = {"jacobian": False, "jacobian_each": True}
VARIANCES = ("model", *_FIXED, *_MEASURED, *_OF_DERIVATIVES)


def is_measured(name: str) -> bool:
    """Say whether examples are needed for a variance of this name."""
    return name in _MEASURED


def variance_of(experiment: Experiment, name: str) -> Callable[[Any], Any]:
    """Return what gives the steps of a model the variance of this name.

    It takes the experiment's model, or one that was made of it, as by guidance. Where errors are measured, those of the
    experiment's model of `p(x)` are, on held-out examples, or else on training examples.

    Raises:
        UserError: there is no such variance, or there are no examples to measure it on.
    """
    choose("variance", name, dict.fromkeys(VARIANCES))
    seed = experiment.config.seed
    if name == "model":
        return lambda model: model
    if name in _FIXED:
        return partial(FixedVariance, data_std=_FIXED[name])
    if name in _OF_DERIVATIVES:
        return partial(JacobianVariance, each=_OF_DERIVATIVES[name], seed=seed)
    dataset = experiment.dataset
    examples = dataset.validation if len(dataset.validation) else dataset.train
    if not len(examples) or dataset.has_gaps:
        raise UserError(f"variance={name} is measured on whole examples, which are not at hand: take jacobian")
    x_0 = dataset.encode(examples[:_NUM_EXAMPLES], seed).to(distributed.device())
    measured = measure_variance(experiment.model, x_0, each=_MEASURED[name], seed=seed)
    return lambda model: MeasuredVariance(model, measured.log_snr, measured.shares)


def bound_with(variance: Callable[[Any], Any], bound: ExampleBound) -> ExampleBound:
    """Return a bound of models whose steps are given a variance."""
    return lambda model, *rest: bound(variance(model), *rest)
