"""Log-densities of numbers without levels that are differentiated by these numbers: `run.log_prob`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.data import Standardised
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.likelihood import make_measurement
from score_sde.solvers import Model, log_likelihood


def log_prob(experiment: Experiment, given: Callable[[int], Model], x: Tensor) -> Tensor:
    """Return `log p(x)`, in data units, of each example, or of one, as something that can be differentiated by `x`.

    Args:
        experiment: the model, and how densities are measured.
        given: gives the model of so many examples, with their conditions.
        x: examples, or one, without levels.

    Raises:
        UserError: the data have levels, or examples another shape.
    """
    units, shape, first = experiment.dataset.units, experiment.dataset.shape, experiment.config.seed
    if not isinstance(units, Standardised):
        raise UserError("levels are no numbers to be differentiated by: use run.model in model units")
    alone = x.shape == shape
    batch = x[None] if alone else x
    if batch.shape[1:] != shape:
        raise UserError(f"examples have shape {tuple(shape)}, not {tuple(x.shape)}")
    result = log_likelihood(
        given(len(batch)),
        units.encode(batch).to(distributed.device()),
        seeds=list(range(first, first + len(batch))),
        differentiable=True,
        **make_measurement(experiment).options,
    )
    log_prob = (result.log_prob + units.log_scales(batch).to(result.log_prob)).to(x.device)
    return log_prob[0] if alone else log_prob
