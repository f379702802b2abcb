"""Drawing samples of an experiment's model, as the section `sampling` has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home, write_atomically
from score_sde.common.resumable import digest
from score_sde.evaluation.provenance import remove_stale
from score_sde.evaluation.samples.copies import check_comparable, describe, find_copies, write_copies
from score_sde.evaluation.samples.draw import Samples, draw_samples, write_samples
from score_sde.evaluation.samples.inception import Extractors, inception, measure_images
from score_sde.experiment import conditions
from score_sde.experiment.asked import asked_of
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.controls import controls_of
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.prompts import led_away_from
from score_sde.experiment.settings import settings_for
from score_sde.experiment.tuning import solver_for
from score_sde.experiment.variances import variance_of
from score_sde.solvers.base import Model, Solver, State


class Drawn(NamedTuple):
    """Holds samples, and what they were asked to be.

    Attributes:
        samples: the samples `(N, *shape)`, in model units.
        seeds: the seed of each sample.
        condition: what the samples were asked to be; None if they may be anything.
        settings: what the samples were drawn with, by name; only the first process knows.
    """

    samples: Samples
    seeds: list[int]
    condition: Condition | None
    settings: dict[str, Any]

    @property
    def labels(self) -> Tensor | None:
        """The class of each sample is `(N,)`, int64; None if any would do."""
        return None if self.condition is None else self.condition.values.get("class")


def sample(experiment: Experiment, condition: Condition | None = None) -> Drawn:
    """Draw the samples that the section `sampling` asks for.

    Args:
        experiment: what is sampled.
        condition: what each sample is asked to be; as the section has it, if left out.
    """
    if condition is None:
        condition = _condition(experiment)
    return sample_of(experiment, _asked(experiment, condition), condition)


def sample_of(experiment: Experiment, asked: Model, condition: Condition | None = None) -> Drawn:
    """Draw samples of a model, as the section `sampling` has it.

    Args:
        experiment: what is sampled.
        asked: the model, bound to what its samples are asked to be.
        condition: what they are asked to be.
    """
    config, sampling = experiment.config, experiment.config.sampling
    seeds = list(range(config.seed, config.seed + sampling.num_samples))
    solver = _solver(experiment, condition)
    samples = draw_samples(asked, solver, experiment.dataset.model_shape, seeds, sampling.batch_size)
    # After the solver is made, which may decide the number of steps.
    settings = settings_for(experiment, ["sampling"]) if distributed.rank() == 0 else {}
    return Drawn(samples, seeds, condition, settings)


def drawn_from(experiment: Experiment, model: Model) -> Tensor:
    """Draw samples `(N, *shape)` of another model of an experiment's data, in model units, as the section has it."""
    config = experiment.config
    seeds = list(range(config.seed, config.seed + config.sampling.num_samples))
    solver = _solver(experiment, None)
    return draw_samples(model, solver, experiment.dataset.model_shape, seeds, config.sampling.batch_size).x


def trajectory(experiment: Experiment, condition: Condition | None = None) -> tuple[State, ...]:
    """Return the states that samples go through, in model units, all in one batch; arguments as of `sample`."""
    config, model = experiment.config, experiment.model
    condition = _condition(experiment) if condition is None else condition
    asked = _asked(experiment, condition)
    seeds = list(range(config.seed, config.seed + config.sampling.num_samples))
    shape = (len(seeds), *experiment.dataset.model_shape)
    latents = model.sde.prior_sample(shape, seeds=seeds, device=distributed.device())
    return _solver(experiment, condition)(asked, latents, seeds=seeds, trajectory=True).trajectory


def _condition(experiment: Experiment) -> Condition | None:
    """Return what the section `sampling` asks samples to be."""
    config = experiment.config
    return asked_of(config, experiment.dataset, config.sampling.num_samples)


def _solver(experiment: Experiment, condition: Condition | None) -> Solver:
    """Return the solver of the section `sampling` for what samples are asked to be."""
    asked = set() if condition is None else set(condition.values)
    if asked - {"class"} and experiment.config.sampling.solver == "tuned":
        raise UserError("solver tuned is learned for classes, and no other conditions: take another, such as default")
    return solver_for(experiment, with_classes="class" in asked)


def _asked(experiment: Experiment, condition: Condition | None) -> Model:
    """Return the model of samples with this condition, guided as the section `sampling` has it."""
    config = experiment.config
    check_heard(config, experiment.dataset, condition, controls_of(experiment.model))
    guides = conditions.find_guides(config, experiment.dataset, experiment.model.sde)
    away = led_away_from(config, experiment.dataset, 1 if condition is None else len(condition))
    of_steps = variance_of(experiment, config.sampling.variance)
    return conditions.make_guidance(config, experiment.model, condition, guides, away, of_steps)


def write(experiment: Experiment, drawn: Drawn) -> list[Path]:
    """Write samples, on the first process; return the paths.

    Raises:
        UserError: a file cannot be written.
    """
    sampling, folder = experiment.config.sampling, experiment.folder / "samples"
    columns = sampling.labels.count(",") + 1 if sampling.labels else None
    paths = write_samples(
        drawn.samples,
        drawn.seeds,
        experiment.dataset,
        folder,
        solver_name(experiment),
        drawn.labels,
        columns,
        drawn.settings,
    )
    # These were measured of the samples that were there before; they are measured anew, if asked for.
    for name in ("metrics.json", "copies.json"):
        remove_stale(_beside(experiment, name), drawn.settings)
    return paths


def extractors_for(experiment: Experiment) -> Extractors | None:
    """Load what measures samples, as the section `sampling` has it; None on all processes but the first.

    Raises:
        UserError: the data are no pictures, or the weights are missing.
    """
    dataset, inception_path = experiment.dataset, experiment.config.sampling.inception
    if not dataset.is_image or len(dataset.train) == 0:
        raise UserError(f"sampling.metrics compares images with training images, which {dataset.name} has not")
    with naming("sampling.inception"):
        weights = at_home(inception_path) if inception_path else None
    return inception(weights, distributed.device()) if distributed.rank() == 0 else None


def measure(experiment: Experiment, drawn: Drawn, extractors: Extractors) -> tuple[dict[str, float], Path]:
    """Measure samples by Inception's metrics, as the section `sampling` asks for; return them and their file.

    Raises:
        UserError: the file cannot be written.
    """
    dataset, x = experiment.dataset, drawn.samples.x
    names = [name.strip() for name in experiment.config.sampling.metrics.split(",")]
    real = dataset.train if dataset.levels == 256 else dataset.levels_to_uint8(dataset.train).movedim(-1, 1)
    statistics = experiment.folder / "samples" / f"fid_statistics_{digest(dataset.train)}.safetensors"
    values = measure_images(names, dataset.to_uint8(x).movedim(-1, 1), real, extractors, statistics)
    path = _beside(experiment, "metrics.json")
    about: dict[str, Any] = {**values, "num_samples": len(x), "num_real": len(real), "settings": drawn.settings}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return values, path


def check_copies(experiment: Experiment) -> None:
    """See, before samples are drawn, that they can be compared with training and test examples.

    Raises:
        UserError: there are too few of these.
    """
    with naming("sampling.copies"):
        check_comparable(experiment.dataset)


def copies(experiment: Experiment, drawn: Drawn) -> tuple[str, list[Path]]:
    """Compare samples with training examples; return what came of it, as a line, and the files.

    Raises:
        UserError: a file cannot be written.
    """
    dataset, config, x = experiment.dataset, experiment.config, drawn.samples.x
    mirrored = dataset.is_image and "flip" in [name.strip() for name in config.data.augment.split(",")]
    found = find_copies(x, dataset, mirrored)
    folder = experiment.folder / "samples"
    return describe(found), write_copies(found, x, dataset, folder, solver_name(experiment), drawn.settings)


def _beside(experiment: Experiment, name: str) -> Path:
    """Return the path of a file of what was measured of samples."""
    return experiment.folder / "samples" / f"{solver_name(experiment)}_{name}"


def solver_name(experiment: Experiment) -> str:
    """Return the solver's name as files have it: that of a user's own without the colon, which they cannot have."""
    return experiment.config.sampling.solver.replace(":", ".")
