"""Mode `train`: train a model, from the beginning or from the newest checkpoint of the folder."""

from __future__ import annotations

from score_sde.experiment import cascade
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.stages import Stages
from score_sde.experiment.training import train


def run(experiment: Experiment) -> None:
    """Train as the section `training` has it.

    Raises:
        UserError: training diverges, or a file cannot be written.
        Stopped: a signal came.
    """
    train(experiment)


def run_stages(stages: Stages) -> None:
    """Train the stages of a cascade, one after the other; raises as `run`."""
    cascade.train(stages)
