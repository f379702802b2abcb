"""Mode `tune`: learn tables for solver `tuned`, of all numbers of steps that the section `tuning` names; or, where that
is the likelihood's method, the table of a tuned likelihood."""

from __future__ import annotations

from score_sde.common import distributed
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.likelihood import make_measurement
from score_sde.experiment.likelihood_tuning import in_words
from score_sde.experiment.tuning import tuned_tables
from score_sde.solvers.density.tuned import TUNED


def run(experiment: Experiment) -> None:
    """Make the tables that are missing, and say where they are."""
    if experiment.config.likelihood.method == TUNED:
        table = make_measurement(experiment).options["table"]
        distributed.say(f"--config.likelihood.method=tuned: {len(table.divergence)} calls, {in_words(table)}")
        return
    tuning = experiment.config.tuning
    with_classes = experiment.config.sampling.labels is not None
    with_prompts = experiment.config.sampling.prompt is not None
    noise = tuning.loss == "distribution"
    path = tuned_tables(experiment, tuning.num_steps, noise, with_classes, with_prompts)
    distributed.say(f"--config.sampling.solver=tuned uses {path}, with --config.sampling.num_steps=N")
