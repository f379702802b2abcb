"""Mode `likelihood`: bits per dimension of examples, or the classifier that follows from a model's densities."""

from __future__ import annotations

from score_sde.experiment.experiment import Experiment
from score_sde.experiment.likelihood import likelihood


def run(experiment: Experiment) -> None:
    """Measure the likelihood of examples as the section `likelihood` asks for, write it and say what it is."""
    likelihood(experiment.config, experiment.dataset, experiment.model, experiment.folder, experiment.found)
