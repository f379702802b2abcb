"""Mode `sample`: draw samples, and measure them if asked to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from score_sde.common import distributed
from score_sde.common.interruption import keeping, nothing_kept
from score_sde.experiment import cascade, sampling
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.sampling import Drawn
from score_sde.experiment.solver import note_ignored
from score_sde.experiment.stages import Stages


def run(experiment: Experiment) -> None:
    """Draw the samples that the section `sampling` asks for, write them and say where."""
    note_ignored(experiment)
    _run(experiment, sampling.sample)


def run_stages(stages: Stages) -> None:
    """Draw samples by the stages of a cascade, write those of the last one into its folder, and say where."""
    experiments = cascade.to_sample(stages)
    _run(replace(experiments[-1], folder=stages.folder), lambda last: cascade.sample(experiments))


def _run(experiment: Experiment, draw: Callable[[Experiment], Drawn]) -> None:
    """Draw samples, write them and say where, and measure them if the section `sampling` asks for it."""
    settings = experiment.config.sampling
    extractors = sampling.extractors_for(experiment) if settings.metrics else None
    if settings.copies:
        sampling.check_copies(experiment)
    with keeping(lambda: nothing_kept("samples are written")):
        drawn = draw(experiment)
        if distributed.rank() > 0:
            return
        paths = sampling.write(experiment, drawn)
    calls = f"{drawn.samples.nfe:g} network calls each, {drawn.samples.seconds:.1f} s"
    distributed.say(f"{len(drawn.seeds)} samples by {settings.solver}, {calls}: {', '.join(map(str, paths))}")
    if extractors is not None:
        with keeping(lambda: f"stopped before the metrics of samples, which are kept: {paths[0]}"):
            values, path = sampling.measure(experiment, drawn, extractors)
            distributed.say(", ".join(f"{name} {value:.4g}" for name, value in values.items()) + f": {path}")
    if settings.copies:
        with keeping(lambda: f"stopped before samples were compared with training examples; they are kept: {paths[0]}"):
            line, paths_of_copies = sampling.copies(experiment, drawn)
            distributed.say(f"{line}: {', '.join(map(str, paths_of_copies))}")
