"""Mode `likelihood`: densities of examples, given their classes or not, and the classifier that follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.distributed import say
from score_sde.common.errors import UserError, choose
from score_sde.common.interruption import keeping
from score_sde.common.progress import Progress
from score_sde.common.resumable import digest, remove_parts
from score_sde.common.weight_files import load_weights
from score_sde.data import Dataset
from score_sde.data.conditions import of_classes
from score_sde.evaluation.likelihood.bayes import Classified, log_class_shares, write_classified
from score_sde.evaluation.likelihood.bits_per_dim import Likelihoods, describe, summarise
from score_sde.evaluation.likelihood.dequantisation import VariationalDequantiser, density_time
from score_sde.evaluation.likelihood.measurement import Measurement
from score_sde.evaluation.likelihood.report import check_likelihoods, measure_likelihoods, write_likelihoods
from score_sde.experiment import build, checkpoints, density
from score_sde.experiment.conditions import is_class_conditional
from score_sde.experiment.settings import settings_of
from score_sde.models import Given
from score_sde.models.dequantisation_flow import DequantisationFlow
from score_sde.training import checkpoint
from score_sde.training.dequantisation import fit_dequantisation

# What a density is conditioned on, with what is added to the names of its files.
CONDITIONS = {"none": "", "own": "_given_class", "all": "_classes"}


# The settings that do not change the numbers.
_NO_SETTINGS = ("likelihood.batch_size", "likelihood.save_latents")

SPLITS = ("test", "validation", "train")


class _Job(NamedTuple):
    """A job says what is to be measured, what decides it, and where it is written.

    `classes` are the examples' own classes if these are asked for, `called` the names of classes if they have any.
    """

    measurement: Measurement
    examples: Tensor
    classes: Tensor | None
    called: list[str] | None
    seeds: list[int]
    about: dict[str, Any]
    folder: Path
    name: str

    def given(self, numbers: Tensor | None) -> _Job:
        """Return the job of measuring densities given these classes `(N,)`; for None, this one."""
        condition = of_classes(numbers)
        if condition is None:
            return self
        model = Given(self.measurement.model, condition.to(self.measurement.device))
        return self._replace(measurement=replace(self.measurement, model=model))

    def measure(self, unfinished: Path) -> Likelihoods:
        """Measure the densities; parts are kept in `unfinished` until all are there."""
        decisive = {key: value for key, value in self.about.items() if key != "settings"}
        decisive |= {name: self.about["settings"][name] for name in ("examples", "weights")}
        size = self.about["batch_size"]
        return measure_likelihoods(self.measurement, self.examples, self.seeds, size, unfinished, decisive)

    def kept(self) -> str:
        """Say what is kept when a signal comes after all is measured, but before it is written."""
        return (
            f"stopped after all {len(self.examples)} examples, which are kept in {self.unfinished}; repeat the command "
            "to go on"
        )

    @property
    def unfinished(self) -> Path:
        """The folder in which parts are kept lies beside the files of the results."""
        return self.folder / f"{self.name}.unfinished"


def likelihood(
    config: ConfigDict, dataset: Dataset, model: build.AnyModel, folder: Path, found: checkpoints.Found | None
) -> None:
    """Measure the likelihood of examples, as the section `likelihood` has it; write it, and say what it is."""
    settings, options = config.likelihood, density.likelihood_options(config, model.sde, dataset)
    parts = {
        "test": (dataset.test, dataset.test_classes),
        "validation": (dataset.validation, dataset.validation_classes),
        "train": (dataset.train, dataset.train_classes),
    }
    examples, classes = choose("split", settings.split, parts)
    examples = examples[: settings.num_examples]
    name = settings.split + choose("condition likelihood.given", settings.given, CONDITIONS)
    if len(examples) == 0:
        raise UserError(f"there are no {settings.split} examples: see data.validation")
    if settings.given != "none" and not (is_class_conditional(config) and classes is not None):
        raise UserError(f"likelihood.given={settings.given} needs a model that knows classes: model.class_conditional")

    dequantiser = density.make_dequantiser(
        config, model.sde, dataset, lambda: _learned_dequantiser(config, dataset, model, folder, found)
    )
    t_min = density_time(dequantiser, settings.t_min)
    options["t_min"] = t_min
    # The bounds are on p(x), not on p(x | y).
    bounds = density.make_bounds(config, dataset, t_min) if settings.given == "none" else {}
    about = {
        **settings.to_dict(),
        "dataset": dataset.name,
        "checkpoint": str(found.path) if found else None,
        "seed": config.seed,
        "levels": dataset.levels,
        "t_min": model.sde.t_min if t_min is None else t_min,
        "settings": settings_of(
            config, ["likelihood"], model, found.path if found else None, _NO_SETTINGS, examples=digest(examples)
        ),
    }
    job = _Job(
        Measurement(model, dequantiser, options, settings.num_draws, bounds, distributed.device()),
        examples,
        None if classes is None or settings.given == "none" else classes[: len(examples)],
        dataset.named(None if classes is None else classes[: len(examples)]),
        list(range(config.seed, config.seed + len(examples))),
        about,
        folder / "likelihood",
        name,
    )
    if settings.given == "all":
        _classify(job, dataset)
    else:
        _measure(job, dataset)
    remove_parts(job.unfinished)


def _measure(job: _Job, dataset: Dataset) -> None:
    """Measure `p(x)`, or `p(x | y)` of each example's own class; write and say it."""
    job = job.given(job.classes)
    measured, settings = job.measure(job.unfinished), job.about
    if distributed.rank() == 0:
        with keeping(job.kept):
            checked = check_likelihoods(job.measurement, measured, job.examples, job.seeds, settings["num_checks"])
            summary = {**job.about, **summarise(measured, checked, settings["divergence"] == "exact")}
            paths = write_likelihoods(
                measured, summary, dataset, job.examples, job.folder, job.name, settings["save_latents"], job.called
            )
        for line in describe(summary):
            say(line)
        say(", ".join(map(str, paths)))


def _classify(job: _Job, dataset: Dataset) -> None:
    """Measure `p(x | y)` for all classes, classify the examples by Bayes' rule; write and say it."""
    assert job.classes is not None
    assert dataset.train_classes is not None
    by_class = []
    for k in range(dataset.num_classes):
        say(f"class {dataset.class_names[k]}, {k + 1} of {dataset.num_classes}")
        measured = job.given(torch.full_like(job.classes, k)).measure(job.unfinished / str(k))
        by_class.append((measured.log_prob - measured.log_q).mean(1))
    if distributed.rank() == 0:
        log_prior = log_class_shares(dataset.train_classes, dataset.num_classes)
        classified = Classified(
            torch.stack(by_class, 1), log_prior, job.classes, dataset.class_names, job.examples[0].numel()
        )
        with keeping(job.kept):
            paths = write_classified(classified, job.about, job.folder, job.name)
        for line in classified.describe():
            say(line)
        say(", ".join(map(str, paths)))


def _learned_dequantiser(
    config: ConfigDict, dataset: Dataset, model: build.AnyModel, folder: Path, found: checkpoints.Found | None
) -> VariationalDequantiser:
    """Load the variational dequantiser of this model from beside the checkpoint; learn it first, if it is missing."""
    if not dataset.is_image:
        raise UserError(f"variational dequantisation is for images, not {dataset.name}")
    path = checkpoints.companions(folder, found) / "dequantisation.pt"
    torch.manual_seed(config.seed)
    flow = DequantisationFlow(dataset.shape[0], dataset.quantised.bins)
    flow = flow.to(distributed.device())
    if distributed.rank() == 0 and not path.exists():
        num_steps, t_min = config.likelihood.flow_steps, config.likelihood.t_min or model.sde.t_min

        def kept() -> str:
            return (
                f"stopped after {bar.done} of {num_steps} steps of learning dequantisation, which are not kept; repeat "
                "the command to begin again"
            )

        with keeping(kept), Progress("learning dequantisation", num_steps, "step") as bar:

            def report(step: int, gain: float) -> None:
                bar.update(step - bar.done, f"gain {gain:.4f} bits/dim")

            best, gain = fit_dequantisation(flow, model, dataset.train, num_steps, t_min, config.seed, report)
        checkpoint.save({"flow": best.state_dict()}, path)
        say(f"{path}: {gain:.4f} bits/dim less than with uniform noise, by the variational bound")
    distributed.barrier()
    load_weights(flow, checkpoint.load(path)["flow"], str(path))
    return VariationalDequantiser(flow.cpu())
