r"""Cascades: a small picture is drawn, then larger ones, each given the one before (Ho et al. 2021, arXiv:2106.15282).

    p(x) = p(x_1) p(x_2 | x_1) … p(x_n | x_{n-1}),        x_{k-1} = D x_k, by means over areas, to whole levels

Each factor is a stage, a run of its own (`experiment.stages`), which has its own solver, steps and guidance. All of
them are asked for the same class or caption. Stage `k` gets noise in what it is told of `x_{k-1}`, as much as its
configuration says (`data.low_resolution`).

Sample `i` has the seed `seed + i` in the first stage, and one made of that and `k` in the others, so that no two stages
draw with the same noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from score_sde.common.condition import Condition, joined
from score_sde.common.distributed import say
from score_sde.common.errors import Stopped, UserError
from score_sde.data.low_resolution import LOW_RESOLUTION
from score_sde.experiment import load, sampling
from score_sde.experiment.condition_values import condition_of
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.report import report
from score_sde.experiment.sampling import Drawn
from score_sde.experiment.solver import note_ignored
from score_sde.experiment.stages import Stages, remember_stages
from score_sde.experiment.training import train as train_run

_STREAM = zlib.crc32(b"cascade")


def train(stages: Stages) -> None:
    """Train the stages of a cascade one after the other, each until it has had its steps.

    Raises:
        UserError: the stages do not fit together, or training diverges.
        Stopped: a signal came.
    """
    remember_stages(stages)
    for number, stage in enumerate(stages.all, start=1):
        say(f"stage {number} of {len(stages.all)}, {stage.name}")
        try:
            train_run(load.to_train(stage.config_path, stage.folder, stage.overrides))
        except Stopped as stopped:
            whole = f"of the whole cascade: python main.py --mode train --workdir {stages.folder}"
            raise Stopped(f"{stopped}; {whole}", stopped.exit_code - 128) from stopped
        report(stage.folder)


def to_sample(stages: Stages) -> list[Experiment]:
    """Load all stages of a cascade, to draw as many samples with each as the last one is to draw.

    Raises:
        UserError: a stage is not trained, or its configuration is faulty.
    """
    experiments = []
    for stage in stages.all:
        experiment = load.to_use("sample", stage.config_path, stage.folder, None, stage.overrides)
        note_ignored(experiment)
        experiments.append(experiment)
    last = experiments[-1].config
    for experiment in experiments:
        experiment.config.seed, experiment.config.sampling.num_samples = last.seed, last.sampling.num_samples
    return experiments


def sample(experiments: Sequence[Experiment]) -> Drawn:
    """Draw the samples that the section `sampling` of each stage asks for; return the last stage's."""
    asked = [sampling.condition_of_samples(experiment) for experiment in experiments]
    drawn = draw(experiments, asked, sampling.seeds_of(experiments[-1].config))
    samples = drawn[-1].samples._replace(
        nfe=sum(one.samples.nfe for one in drawn), seconds=sum(one.samples.seconds for one in drawn)
    )
    settings = {
        f"{experiment.folder.name}.{key}": value
        for experiment, one in zip(experiments, drawn, strict=True)
        for key, value in one.settings.items()
    }
    return drawn[-1]._replace(samples=samples, settings=settings)


def draw(
    experiments: Sequence[Experiment],
    asked: Sequence[Condition | None],
    seeds: Sequence[int],
    first: int = 0,
    small: Tensor | None = None,
) -> list[Drawn]:
    """Draw samples of stages, each given what the one before drew.

    Args:
        experiments: the stages.
        asked: what samples are asked to be, beside enlarged pictures, for each stage.
        seeds: the seed of each sample.
        first: the place of the first of these stages in the cascade, from 0.
        small: pictures that it enlarges, in data units; None for the first stage of the cascade.

    Raises:
        UserError: samples of a stage are not finite.
    """
    drawn: list[Drawn] = []
    for place, (experiment, condition) in enumerate(zip(experiments, asked, strict=True), start=first):
        if place:
            assert small is not None
            condition = joined(condition, _told(experiment, small))
        else:
            experiment.config.sampling.low_resolution_noise = 0.0
        drawn.append(sampling.sample(experiment, condition, [stage_seed(seed, place) for seed in seeds]))
        x = drawn[-1].samples.x
        if not bool(x.isfinite().all()):
            raise UserError(
                f"samples of stage {experiment.folder.name} are not finite: take more steps of another solver"
            )
        small = experiment.dataset.units.decode(x)
    return drawn


def stage_seed(seed: int, place: int) -> int:
    """Return the seed of a sample in a stage, which in the first one, 0, is its own."""
    if not place:
        return seed
    made = np.random.SeedSequence(seed, spawn_key=(_STREAM, place)).generate_state(1, np.uint64)[0]
    return int(made >> np.uint64(1))


def _told(experiment: Experiment, small: Tensor) -> Condition:
    """Return the condition of a stage that is told these small pictures."""
    given = {LOW_RESOLUTION: small.numpy()}
    return condition_of(experiment.config, experiment.dataset, given, len(small))[0]
