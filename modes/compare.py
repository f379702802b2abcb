"""Mode `compare`: solvers side by side, and the one to take."""

from __future__ import annotations

from score_sde.common import distributed
from score_sde.common.interruption import keeping, nothing_kept
from score_sde.evaluation.comparison.recommendation import recommend
from score_sde.experiment import comparison
from score_sde.experiment.experiment import Experiment


def run(experiment: Experiment) -> None:
    """Compare solvers as the section `compare` asks for, on one process; write the tables and say where."""
    if distributed.rank() > 0:
        return
    with keeping(lambda: nothing_kept("a comparison is written")):
        compared = comparison.compare_solvers(experiment)
        paths = comparison.write(experiment, compared)
    distributed.say(recommend(compared)[1])
    distributed.say(", ".join(map(str, paths)))
