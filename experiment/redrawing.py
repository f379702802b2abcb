"""Examples drawn again through noise (SDEdit), from Python: `run.redraw`."""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition, joined
from score_sde.common.progress import Progress
from score_sde.control import noised
from score_sde.evaluation.watched import Watched
from score_sde.experiment import conditions
from score_sde.experiment.asked import asked_of, beside_given
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.controls import controls_of
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.low_resolution import with_noise_of_samples, without_the_rest
from score_sde.experiment.prompts import led_away_from
from score_sde.experiment.tuning import solver_for
from score_sde.models import rows_of


def redraw(experiment: Experiment, x: Tensor, strength: float, condition: Condition | None) -> Tensor:
    """Return examples drawn from the noise of a strength on, `(K, N, *shape)`, in model units.

    Args:
        experiment: the model, and how samples are drawn, `K N` of them.
        x: the examples `(N, *shape)`, in model units.
        strength: how far the way to noise is gone, as a part of `T`.
        condition: what each is asked to be; as the section `sampling` has it, if None.

    Raises:
        UserError: the model knows no such condition, guidance leads nowhere, or the strength is out of range.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    count, size = config.sampling.num_samples, config.sampling.batch_size
    rows = torch.arange(count) % len(x)
    given = None if condition is None else condition.to("cpu")[rows]
    asked = asked_of(config, dataset, count) if given is None else beside_given(config, dataset, given)
    asked = with_noise_of_samples(config, dataset, asked, range(config.seed, config.seed + count))
    check_heard(config, dataset, asked, controls_of(model))
    guides, away = conditions.find_guides(config, dataset, model.sde), led_away_from(config, dataset, count)
    away = joined(away, without_the_rest(config, asked))
    guided = conditions.make_guidance(config, model, asked, guides, away)
    solver, drawn = solver_for(experiment), list[Tensor]()
    with Progress("samples", -(-count // size), "batch") as bar:
        for part in torch.arange(count).split(size):
            seeds = (config.seed + part).tolist()
            begun = x[rows[part]].to(distributed.device())
            model_of_rows, start = noised(Watched(rows_of(guided, part), bar.call), begun, strength, seeds=seeds)
            drawn.append(solver(model_of_rows, start, seeds=seeds).x.cpu())
            bar.update()
    return torch.cat(drawn).unflatten(0, (count // len(x), len(x)))
