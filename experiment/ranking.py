r"""How likely each of several conditions makes an example: which caption, or class, a picture has.

    p(c | x) ∝ p(x | c) p(c),      log p(x | c) >= E log p(x_1 … x_T, x | c)/q      (`solvers.density.bounds`)

Times, noise and dequantisation of an example are the same under all conditions, so that what they add to the bounds is
the same, too, and hardly anything is left of it in their differences (as Li et al. 2023, arXiv:2303.16203, who weigh
times otherwise).
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.evaluation.likelihood.dequantisation import Dequantised
from score_sde.experiment.couplings import why_no_score
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.likelihood import make_measurement
from score_sde.models import Given


def bounds_of_each(experiment: Experiment, examples: Tensor, told: Condition) -> Tensor:
    """Return a bound on `log p(x | c)`, in data units, of each example under each condition, `(N, K)`, float64.

    Args:
        experiment: what is measured, with one bound in the section `likelihood`; example `i` has the seed `seed + i`.
        examples: the examples `(N, *shape)`.
        told: the K conditions.

    Raises:
        UserError: the model is a flow and no score, which has no bound, or several bounds are asked for.
    """
    reason = why_no_score(experiment.config)
    if reason:
        raise UserError(f"conditions are ranked by a bound, and this model has none: {reason}")
    measurement, settings = make_measurement(experiment), experiment.config.likelihood
    if len(measurement.bounds) != 1:
        raise UserError(f"conditions are ranked by one bound, not by {', '.join(measurement.bounds) or 'none'}")
    (bound,), device = measurement.bounds.values(), distributed.device()
    found = torch.empty(len(examples), len(told), dtype=torch.float64)
    for row, example in enumerate(examples.split(1)):
        seed = experiment.config.seed + row
        draw = measurement.dequantiser.sample(example, SampleNoise([seed], stream="dequantisation"))
        for start in range(0, len(told), settings.batch_size):
            some = told[slice(start, start + settings.batch_size)]
            same = Dequantised(draw.x.to(device).expand(len(some), *draw.x.shape[1:]), draw.log_q.expand(len(some)))
            many = example.to(device).expand(len(some), *example.shape[1:])
            terms = bound(Given(experiment.model, some), many, same, [seed] * len(some))
            found[row, start : start + len(some)] = terms.log_prob
    return found
