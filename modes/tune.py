"""Mode `tune`: learn tables for solver `tuned`, of all numbers of steps that the section `tuning` names."""

from __future__ import annotations

from score_sde.common import distributed
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.tuning import tuned_tables


def run(experiment: Experiment) -> None:
    """Make the tables that are missing, and say where they are."""
    tuning = experiment.config.tuning
    with_classes = experiment.config.sampling.labels is not None
    path = tuned_tables(experiment, tuning.num_steps, tuning.loss == "distribution", with_classes)
    distributed.say(f"--config.sampling.solver=tuned uses {path}, with --config.sampling.num_steps=N")
