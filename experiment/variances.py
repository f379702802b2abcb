"""From the keys `sampling.variance` and `likelihood.variance` to models whose steps have that variance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from score_sde.common import distributed
from score_sde.common.errors import UserError, choose
from score_sde.data.words import Part
from score_sde.evaluation.likelihood.bounds import ExampleBound
from score_sde.experiment import build
from score_sde.experiment.experiment import Experiment
from score_sde.models import Given
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

    It takes the experiment's model, or that under a condition. Where errors are measured, those of the experiment's
    model of `p(x)` are, or, if it was never without its condition, of `p(x | condition)`, on held-out examples, or else
    on training examples, drawn at random.

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
    dataset, config = experiment.dataset, experiment.config
    part: Part = "validation" if len(dataset.validation) else "train"
    examples = getattr(dataset, part)
    if not len(examples) or dataset.has_gaps:
        raise UserError(f"variance={name} is measured on whole examples, which are not at hand: take jacobian")
    drawn = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))[:_NUM_EXAMPLES]
    rows = drawn.sort().values
    x_0 = dataset.encode(examples[rows], seed).to(distributed.device())
    told = None
    if not config.training.label_dropout:
        labelled = build.knows_classes(config) and getattr(dataset, f"{part}_classes") is not None
        names = build.told_names(config, dataset)
        told = dataset.condition_of(part, rows, labelled, names, distributed.device())
    # All at once, since each has a condition of its own.
    size = {} if told is None else {"batch_size": len(x_0)}
    measured = measure_variance(Given(experiment.model, told), x_0, each=_MEASURED[name], seed=seed, **size)
    return lambda model: MeasuredVariance(model, measured.log_snr, measured.shares)


def bound_with(variance: Callable[[Any], Any], bound: ExampleBound) -> ExampleBound:
    """Return a bound of models whose steps are given a variance."""
    return lambda model, *rest: bound(variance(model), *rest)
