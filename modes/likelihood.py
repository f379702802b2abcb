"""Mode `likelihood`: bits per dimension of examples, or the classifier that follows from a model's densities."""

from __future__ import annotations

from score_sde.common.distributed import say
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.likelihood import likelihood


def run(experiment: Experiment) -> None:
    """Measure the likelihood of examples as the section `likelihood` asks for, and say what it is and where."""
    measured = likelihood(experiment)
    if measured is not None:
        for line in (*measured.lines, ", ".join(map(str, measured.paths))):
            say(line)
