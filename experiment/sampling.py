"""Drawing samples of an experiment's model, as the section `sampling` has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition, joined
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home, write_atomically
from score_sde.common.resumable import digest
from score_sde.data.captions import CAPTION
from score_sde.data.conditions import of_classes
from score_sde.evaluation.provenance import as_text, remove_stale, replacing
from score_sde.evaluation.samples.copies import check_comparable, describe, find_copies, write_copies
from score_sde.evaluation.samples.draw import Samples, draw_samples, write_samples
from score_sde.evaluation.samples.inception import Extractors, inception, measure_images
from score_sde.experiment import conditions
from score_sde.experiment.asked import asked_of
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.controls import controls_of
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.low_resolution import with_noise_of_samples, without_the_rest
from score_sde.experiment.pipelines import as_pictures
from score_sde.experiment.priors import drawn_by_prior, prior_of
from score_sde.experiment.prompts import led_away_from
from score_sde.experiment.settings import settings_for
from score_sde.experiment.tuning import solver_for
from score_sde.experiment.variances import variance_of
from score_sde.models.layers.text import whole
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


def sample(experiment: Experiment, condition: Condition | None = None, seeds: list[int] | None = None) -> Drawn:
    """Draw the samples that the section `sampling` asks for.

    Args:
        experiment: what is sampled.
        condition: what each sample is asked to be; as the section has it, if left out.
        seeds: the seed of each; as the configuration has them, if left out.
    """
    seeds = seeds_of(experiment.config) if seeds is None else seeds
    condition = condition_of_samples(experiment, condition)
    condition = with_noise_of_samples(experiment.config, experiment.dataset, condition, seeds)
    return sample_of(experiment, model_asked(experiment, condition), condition, seeds)


def seeds_of(config: ConfigDict) -> list[int]:
    """Return the seeds of the samples that the section `sampling` asks for."""
    return list(range(config.seed, config.seed + config.sampling.num_samples))


def sample_of(
    experiment: Experiment, asked: Model, condition: Condition | None = None, seeds: list[int] | None = None
) -> Drawn:
    """Draw samples of a model, as the section `sampling` has it.

    Args:
        experiment: what is sampled.
        asked: the model, bound to what its samples are asked to be.
        condition: what they are asked to be.
        seeds: the seed of each; as the configuration has them, if left out.
    """
    sampling, seeds = experiment.config.sampling, seeds_of(experiment.config) if seeds is None else seeds
    solver = _solver(experiment, condition)
    samples = draw_samples(asked, solver, experiment.dataset.model_shape, seeds, sampling.batch_size)
    # After the solver is made, which may decide the number of steps.
    settings = settings_for(experiment, ["sampling"]) if distributed.rank() == 0 else {}
    return Drawn(samples, seeds, condition, settings)


def drawn_from(experiment: Experiment, model: Model, condition: Condition | None = None) -> Tensor:
    """Draw samples `(N, *shape)` of another model of an experiment's data, in model units, as the section has it; the
    model is bound to the condition, if there is one."""
    config, solver = experiment.config, _solver(experiment, condition)
    shape = experiment.dataset.model_shape
    return draw_samples(model, solver, shape, seeds_of(config), config.sampling.batch_size).x


def trajectory(experiment: Experiment, condition: Condition | None = None) -> tuple[State, ...]:
    """Return the states that samples go through, in model units, all in one batch; arguments as of `sample`."""
    config, model = experiment.config, experiment.model
    condition, seeds = condition_of_samples(experiment, condition), seeds_of(config)
    condition = with_noise_of_samples(config, experiment.dataset, condition, seeds)
    asked = model_asked(experiment, condition)
    shape = (len(seeds), *experiment.dataset.model_shape)
    latents = model.sde.prior_sample(shape, seeds=seeds, device=distributed.device())
    return _solver(experiment, condition)(asked, latents, seeds=seeds, trajectory=True).trajectory


def condition_of_samples(experiment: Experiment, given: Condition | None = None) -> Condition | None:
    """Return what samples are asked to be: what is given, or, where nothing is, what the section `sampling` says."""
    if given is not None:
        if experiment.config.sampling.prior is not None:
            raise UserError("sampling.prior draws what samples are asked to be: leave out it, or the condition")
        return given
    config, dataset = experiment.config, experiment.dataset
    prior, count = prior_of(experiment), config.sampling.num_samples
    if prior is None:
        return asked_of(config, dataset, count)
    embeddings = drawn_by_prior(experiment, sample(prior).samples.x, prior)
    return joined(of_classes(conditions.sample_labels(config, dataset, count)), embeddings)


def _solver(experiment: Experiment, condition: Condition | None) -> Solver:
    """Return the solver of the section `sampling` for what samples are asked to be."""
    asked = set() if condition is None else set(condition.values)
    words = {CAPTION, whole(CAPTION)}
    if asked - {"class"} - words and experiment.config.sampling.solver == "tuned":
        raise UserError(
            "solver tuned is learned for classes and prompts, and no other conditions: take another, such as default"
        )
    return solver_for(experiment, with_classes="class" in asked, with_prompts=bool(asked & words))


def model_asked(experiment: Experiment, condition: Condition | None) -> Model:
    """Return the model of samples with this condition, guided as the section `sampling` has it."""
    config = experiment.config
    check_heard(config, experiment.dataset, condition, controls_of(experiment.model))
    guides = conditions.find_guides(config, experiment.dataset, experiment.model.sde)
    away = led_away_from(config, experiment.dataset, 1 if condition is None else len(condition))
    away = joined(away, without_the_rest(config, condition))
    of_steps = variance_of(experiment, config.sampling.variance)
    return conditions.make_guidance(config, experiment.model, condition, guides, away, of_steps)


def write(experiment: Experiment, drawn: Drawn) -> list[Path]:
    """Write samples, on the first process; return the paths.

    Raises:
        UserError: a file cannot be written.
    """
    sampling, folder = experiment.config.sampling, experiment.folder / "samples"
    columns = sampling.labels.count(",") + 1 if sampling.labels else None
    samples, dataset, beside = drawn.samples, experiment.dataset, []
    if experiment.found is not None and experiment.found.pipeline is not None:
        beside = [_write_latents(experiment, drawn)]
        samples, dataset = as_pictures(experiment.found.pipeline, samples)
    paths = write_samples(
        samples,
        drawn.seeds,
        dataset,
        folder,
        solver_name(experiment),
        drawn.labels,
        columns,
        drawn.settings,
    )
    # These were measured of the samples that were there before; they are measured anew, if asked for.
    for name in ("metrics.json", "copies.json"):
        remove_stale(_beside(experiment, name), drawn.settings)
    return paths + beside


def _write_latents(experiment: Experiment, drawn: Drawn) -> Path:
    """Write the latents of a pipeline's samples beside their pictures; return the path."""
    path = _beside(experiment, "latents.npz")
    with replacing(path, drawn.settings), write_atomically(path) as temporary:
        latents = drawn.samples.x.numpy()
        np.savez_compressed(temporary, samples=latents, seeds=drawn.seeds, settings=as_text(drawn.settings))
    return path


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
