"""The modes of `main.py`: the objects that a configuration describes are built, and handed over to each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home, write_atomically
from score_sde.common.interruption import keeping
from score_sde.common.progress import Progress
from score_sde.common.resumable import digest
from score_sde.data import Batches, Dataset, get_augmentation
from score_sde.data.dataset import described
from score_sde.data.memory import changes, memory_of, overlap, recall, remember
from score_sde.data.words import PARTS
from score_sde.evaluation.comparison.compare import compare as compare_solvers
from score_sde.evaluation.comparison.recommendation import recommend
from score_sde.evaluation.comparison.report import write_report
from score_sde.evaluation.likelihood.dequantisation import UniformDequantiser
from score_sde.evaluation.progress import progress_measure
from score_sde.evaluation.provenance import remove_stale, settings_of
from score_sde.evaluation.samples.draw import as_array, draw_samples, write_samples
from score_sde.evaluation.samples.inception import Extractors, inception, measure_images
from score_sde.evaluation.watched import Watched
from score_sde.experiment import build, checkpoints, configuration, rules, runs
from score_sde.experiment import conditions as guided
from score_sde.experiment.editing import (
    BY_FLOW,
    NUM_STEPS,
    Editor,
    choose_solver,
    edit,
    names_test_examples,
    num_answers,
)
from score_sde.experiment.likelihood import likelihood
from score_sde.models import NoisyClassifier
from score_sde.sde import SDE
from score_sde.solvers import get_solver
from score_sde.solvers.base import Solver
from score_sde.solvers.fast.tuned import save_table, table_path
from score_sde.solvers.fast.tuning import tune
from score_sde.training.classification import accuracy_by_level
from score_sde.training.precision import image_layout, training_precision
from score_sde.training.trainer import Trainer
from training import checkpoint

# What a run remembers of its data.
_MEMORY = "data.npz"
_NUM_PREVIEWS = 36
_NUM_TUNED_STEPS = 10
# Of solvers that have no default of their own.
_NUM_STEPS = 20
_NOTHING_KEPT = "stopped; nothing new is kept, as {} when all is there; repeat the command to begin again"


def train(config_path: str | None, folder: Path, overrides: runs.Overrides) -> None:
    """Train in `folder` until `training.num_steps`, from the beginning or from the newest checkpoint.

    Raises:
        UserError: the configuration is faulty, training diverges, or a file cannot be written.
        Stopped: a signal came.
    """
    config = runs.configuration_to_train(config_path, folder, overrides)
    rules.check(config, "train")
    for change in runs.changes(config, folder):
        distributed.say(change)
    dataset = _make_dataset(config)
    model = build.make_model(config, dataset)
    build.check_classes(config, dataset)
    if config.data.augment and not dataset.is_image:
        raise UserError(f"data.augment is for images; for {dataset.name}: --config.data.augment=")
    if config.training.shard and distributed.world_size() == 1:
        raise UserError("training.shard divides a network among processes: start several with torchrun")
    parts = config.training.accumulation * distributed.world_size()
    if config.training.batch_size % parts:
        raise UserError(
            f"training.batch_size={config.training.batch_size} cannot be divided among {distributed.world_size()} "
            f"processes in {config.training.accumulation} parts each"
        )
    unused = build.unused_attention(config, dataset)
    _note([unused] if unused else [])
    batches = Batches(
        dataset,
        config.training.batch_size,
        config.seed,
        get_augmentation(config.data.augment),
        config.data.distortion,
        config.data.uniform_dequantisation,
        distributed.rows(),
        distributed.device(),
        labelled=build.knows_classes(config),
        label_dropout=config.training.label_dropout if config.model.class_conditional else 0.0,
    )
    held_out = build.in_model_units(config, dataset, dataset.validation)
    held_out_classes = dataset.validation_classes if build.knows_classes(config) else None
    objective = build.make_objective(config, model.sde)
    preview = get_solver("default", num_steps=20, data_std=config.sampling.data_std or 0.5)

    def draw(model: Any) -> np.ndarray:
        seeds = list(range(config.seed, config.seed + _NUM_PREVIEWS))
        samples = draw_samples(model, preview, dataset.shape, seeds, _NUM_PREVIEWS, progress=False)
        return as_array(samples.x.nan_to_num(), dataset)

    if dataset.is_image:
        device = distributed.device()
        precision = training_precision(config.training.precision, device)
        layout = image_layout(precision, device, config.training.channels_last)
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
    measure = _measure(config, dataset, model.sde)
    drawn = None if isinstance(model, NoisyClassifier) else draw
    trainer = Trainer(model, objective, batches, held_out, config, folder, drawn, measure, held_out_classes)
    if trainer.step >= config.training.num_steps:
        distributed.say(
            f"{folder} has had its {trainer.step} steps; for more: --config.training.num_steps={2 * trainer.step}"
        )
        return
    if distributed.rank() == 0:
        memory, before = memory_of(dataset), recall(folder / _MEMORY) if trainer.step else None
        _note([*([] if before is None else changes(memory, before)), *overlap(memory, before)])
        configuration.save(config, folder / "config.json")
        remember(memory, folder / _MEMORY, before)
    size = sum(parameter.numel() for parameter in model.parameters())
    beginning = f", from step {trainer.step}" if trainer.step else ""
    distributed.say(f"training {size:,} parameters on {len(dataset.train):,} {dataset.name} in {folder}{beginning}")

    def kept() -> str:
        newest = checkpoint.latest(folder / "checkpoints") or "none yet"
        return (
            f"stopped within step {trainer.step + 1}, which is not saved; the newest checkpoint: {newest}; to go on: "
            f"python main.py --mode train --workdir {folder}"
        )

    with keeping(kept):
        trainer.run()
    distributed.say(f"trained for {trainer.step} steps: {checkpoint.latest(folder / 'checkpoints')}")


def _measure(config: ConfigDict, dataset: Dataset, sde: SDE) -> Callable[[Any], dict[str, float]] | None:
    """What training measures now and then, if it is to."""
    if not config.training.measure_every:
        return None
    if config.model.network == "classifier":
        if dataset.test_classes is None or not len(dataset.test):
            return None
        count = config.training.num_measured
        x_0 = build.in_model_units(config, dataset, dataset.test[:count])
        return accuracy_by_level(x_0, dataset.test_classes[:count], config.training.t_min, config.seed)

    def uniform() -> UniformDequantiser:
        return UniformDequantiser(dataset.low, dataset.bin_width)

    dequantiser = build.make_dequantiser(config, sde, dataset, learn=uniform)
    solver, count = build.make_solver(config), config.training.num_measured
    return progress_measure(dataset, dequantiser, config.likelihood.t_min, solver, count, config.seed)


def use(
    mode: str, config_path: str | None, folder: Path, checkpoint_path: Path | None, overrides: runs.Overrides
) -> None:
    """Sample from a trained model (or from a mixture, which needs no training), or evaluate it.

    Raises:
        UserError: the configuration or the checkpoint is faulty or missing, or a file cannot be written.
    """
    config, found = runs.configuration_to_use(config_path, folder, checkpoint_path, overrides)
    rules.check(config, mode)
    dataset = _dataset_to_use(mode, config, found)
    if mode in ("likelihood", "compare"):
        part = config.likelihood.split if mode == "likelihood" else "test"
        _note_changes(dataset, (checkpoint.run_of(found.path) if found else None) or folder, part)
    model = build.make_mixture(config, dataset) if found is None else found.make_model(config, dataset)
    if isinstance(model, NoisyClassifier):
        raise UserError(
            f"this is a classifier: give it to a model of {dataset.name}, --config.sampling.classifier={folder}"
        )
    model = model.to(distributed.device()).eval().requires_grad_(False)
    if found is not None and distributed.rank() == 0 and checkpoints.is_strange(found.path, folder):
        _note([f"{folder} is the run of another model than {found.path}: see --workdir"])
    # An edit is made once.
    kept = {name: section for name, section in config.to_dict().items() if name != "edit"}
    if mode == "sample":
        _note_ignored(config, overrides)
        sample(config, dataset, model, folder, found)
    elif mode == "likelihood":
        likelihood(config, dataset, model, folder, found)
    elif mode == "edit":
        edit_pictures(config, dataset, model, folder, found, overrides)
    else:
        compare(config, dataset, model, folder, found)
    if distributed.rank() == 0 and not (folder / "config.json").exists():
        configuration.save(configuration.from_dict(kept, "the configuration"), folder / "config.json")


def sample(
    config: ConfigDict, dataset: Dataset, model: build.AnyModel, folder: Path, found: checkpoints.Found | None
) -> None:
    """Draw the samples that the section `sampling` asks for."""
    sampling = config.sampling
    extractors = _image_metrics(config, dataset) if sampling.metrics else None
    labels = guided.sample_labels(config, dataset, sampling.num_samples)
    control = guided.make_guidance(config, model, labels, guided.find_classifier(config, dataset))
    seeds = list(range(config.seed, config.seed + sampling.num_samples))
    solver = _make_solver(config, dataset, model, folder, found)
    columns = sampling.labels.count(",") + 1 if sampling.labels else None
    with keeping(lambda: _NOTHING_KEPT.format("samples are written")):
        samples = draw_samples(model, solver, dataset.shape, seeds, sampling.batch_size, control=control)
        if distributed.rank() == 0:
            settings = _settings(config, ["sampling"], model, found)
            paths = write_samples(
                samples, seeds, dataset, folder / "samples", sampling.solver, labels, columns, settings
            )
            # Of the samples that were there before; written anew below, if asked for.
            remove_stale(_metrics_path(config, folder / "samples"), settings)
    if distributed.rank() == 0:
        calls = f"{samples.nfe:g} network calls each, {samples.seconds:.1f} s"
        distributed.say(f"{len(seeds)} samples by {sampling.solver}, {calls}: {', '.join(map(str, paths))}")
        if extractors is not None:
            with keeping(lambda: f"stopped before the metrics of samples, which are kept: {paths[0]}"):
                _measure_images(config, dataset, samples.x, extractors, folder / "samples", settings)


def edit_pictures(
    config: ConfigDict,
    dataset: Dataset,
    model: build.AnyModel,
    folder: Path,
    found: checkpoints.Found | None,
    overrides: runs.Overrides,
) -> None:
    """Edit pictures as the section `edit` asks for."""
    for key in ("solver", "num_steps"):
        if config.edit.task not in BY_FLOW and any(name == f"sampling.{key}" for name, _ in overrides):
            raise UserError(f"--mode edit has a solver of its own: --config.edit.{key}")
    choose_solver(config)
    _note_ignored(config, overrides)
    labels = guided.sample_labels(config, dataset, num_answers(config, dataset))
    if config.edit.task == "interpolate" and labels is not None and len(labels.unique()) > 1:
        raise UserError("pictures are interpolated within one class: give one in sampling.labels")
    models = guided.make_guidance(config, model, labels, guided.find_classifier(config, dataset))
    solver = _make_solver(config, dataset, model, folder, found, NUM_STEPS)
    settings = _settings(config, ["edit", "sampling"], model, found) if distributed.rank() == 0 else {}
    with keeping(lambda: _NOTHING_KEPT.format("answers are written")):
        edit(Editor(config, dataset, models, solver, settings, labels), folder)


def _settings(
    config: ConfigDict, sections: list[str], model: build.AnyModel, found: checkpoints.Found | None, **more: Any
) -> dict[str, Any]:
    """What a result is made with, but for what does not change it."""
    ignored = {*build.ignored_options(config), "batch_size", "metrics", "inception"}
    keys = [*(f"sampling.{name}" for name in ignored), "compare.batch_size"]
    return settings_of(config, sections, model, found.path if found else None, keys, **more)


def _make_solver(
    config: ConfigDict,
    dataset: Dataset,
    model: build.AnyModel,
    folder: Path,
    found: checkpoints.Found | None,
    default_steps: int = _NUM_STEPS,
) -> Solver:
    """The solver of the section `sampling`; what it is tuned with is made first."""
    sampling, options = config.sampling, {}
    if sampling.solver == "tuned":
        sampling.num_steps = sampling.num_steps or _NUM_TUNED_STEPS
        options["path"] = _tuned_tables(config, dataset, model, folder, found, [sampling.num_steps])
    return build.make_solver(config, default_steps, **options)


def _image_metrics(config: ConfigDict, dataset: Dataset) -> Extractors | None:
    """What measures samples, as the section `sampling` has it; None on all processes but the first."""
    if not dataset.is_image or len(dataset.train) == 0:
        raise UserError(f"sampling.metrics compares images with training images, which {dataset.name} has not")
    with naming("sampling.inception"):
        weights = at_home(config.sampling.inception) if config.sampling.inception else None
    return inception(weights, distributed.device()) if distributed.rank() == 0 else None


def _metrics_path(config: ConfigDict, folder: Path) -> Path:
    """The file of the metrics of samples."""
    return folder / f"{config.sampling.solver}_metrics.json"


def _measure_images(
    config: ConfigDict, dataset: Dataset, x: Tensor, extractors: Extractors, folder: Path, settings: dict[str, Any]
) -> None:
    """Inception's metrics of samples drawn with these settings, as the section `sampling` asks for."""
    sampling = config.sampling
    names = [name.strip() for name in sampling.metrics.split(",")]
    real = dataset.train if dataset.levels == 256 else dataset.levels_to_uint8(dataset.train).movedim(-1, 1)
    statistics = folder / f"fid_statistics_{digest(dataset.train)}.safetensors"
    values = measure_images(names, dataset.to_uint8(x).movedim(-1, 1), real, extractors, statistics)
    path = _metrics_path(config, folder)
    about = {**values, "num_samples": len(x), "num_real": len(real), "settings": settings}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")
    distributed.say(", ".join(f"{name} {value:.4g}" for name, value in values.items()) + f": {path}")


def compare(
    config: ConfigDict, dataset: Dataset, model: build.AnyModel, folder: Path, found: checkpoints.Found | None
) -> None:
    """Solvers side by side, as the section `compare` has it; on one process."""
    if distributed.rank() > 0:
        return
    settings = config.compare
    contenders: dict[str, dict[str, Any]] = {name: {} for name in settings.solvers}
    if "tuned" in contenders:
        contenders["tuned"]["path"] = _tuned_tables(config, dataset, model, folder, found, settings.budgets)
    shared = {f"sampling.{name}": value for name, value in build.shared_options(config.sampling).items()}
    made_with = _settings(config, ["compare"], model, found, test_examples=digest(dataset.test), **shared)
    with keeping(lambda: _NOTHING_KEPT.format("a comparison is written")):
        comparison = compare_solvers(
            model,
            dataset.shape,
            list(contenders.items()),
            settings.budgets,
            shared=build.shared_options(config.sampling),
            dataset=dataset,
            repetitions=range(config.seed, config.seed + settings.repetitions),
            num_samples=settings.num_samples,
            num_trajectories=settings.num_trajectories,
            batch_size=settings.batch_size,
            device=distributed.device(),
        )
        paths = write_report(comparison, folder / "compare", dataset.name, made_with)
    distributed.say(recommend(comparison)[1])
    distributed.say(", ".join(map(str, paths)))


def _tuned_tables(
    config: ConfigDict,
    dataset: Dataset,
    model: build.AnyModel,
    folder: Path,
    found: checkpoints.Found | None,
    budgets: Sequence[int],
) -> Path:
    """The folder of tables for solver `tuned`, beside the checkpoint; those that are missing are tuned first."""
    tables = checkpoints.companions(folder, found)
    for num_steps in budgets:
        if distributed.rank() == 0 and not table_path(tables, num_steps).exists():
            _tune(config, dataset, model, tables, num_steps)
    distributed.barrier()
    return tables


def _tune(config: ConfigDict, dataset: Dataset, model: build.AnyModel, tables: Path, num_steps: int) -> None:
    """Make the table of so many steps."""
    distributed.say(f"tuning a sampler of {num_steps} steps")

    def kept() -> str:
        return (
            f"stopped while tuning a sampler of {num_steps} steps, which is not kept; those in {tables} are; repeat "
            "the command to go on"
        )

    with keeping(kept):
        with Progress("tuning") as bar:

            def report(iteration: int, error: float) -> None:
                bar.note = f"iteration {iteration}, held-out error {error:.3g}"

            tuned = tune(
                Watched(model, bar.call),
                num_steps,
                dataset.shape,
                data_std=config.sampling.data_std or 0.5,
                device=distributed.device(),
                report=report,
            )
        path = table_path(tables, num_steps)
        save_table(path, tuned.table, model.sde)
    distributed.say(f"{path}: held-out error {tuned.error:.3g}, untuned {tuned.start_error:.3g}")


def _make_dataset(config: ConfigDict, files_needed: bool = True) -> Dataset:
    """The data; what has to be prepared is prepared by one process of each machine."""
    with distributed.one_first():
        dataset = build.make_dataset(config, files_needed)
    _note(dataset.notes)
    return dataset


def _dataset_to_use(mode: str, config: ConfigDict, found: checkpoints.Found | None) -> Dataset:
    """The data, or, where no example of them is needed, what the checkpoint knows of them."""
    known = None if found is None else found.data
    drawn = mode == "sample" and not config.sampling.metrics
    if not (drawn or (mode == "edit" and not names_test_examples(config.edit.input))):
        return _make_dataset(config)
    if known is None:
        classes_needed = build.knows_classes(config) or config.sampling.labels is not None
        return _make_dataset(config, files_needed=found is None or classes_needed)
    without_examples = described(known, config.data.low, config.data.high)
    if without_examples.is_image:
        return without_examples
    # Points are shown beside those of the data.
    try:
        return _make_dataset(config)
    except UserError as error:
        _note([f"sampled without the data: {error}"])
        return without_examples


def _note_changes(dataset: Dataset, run: Path, part: str) -> None:
    """Say how a part of the data differs from that of the data that a run was trained on, if it remembers these."""
    before = recall(run / _MEMORY) if distributed.rank() == 0 else None
    memory = {} if before is None else memory_of(dataset)
    parts = [known for known in PARTS if known == part and len(memory.get(known, ()))]
    if before is not None and parts:
        _note([*changes(memory, before, parts), *overlap(memory, before, [p for p in parts if p != "train"])])


def _note(lines: Iterable[str]) -> None:
    """Print notes."""
    for line in lines:
        distributed.note(line)


def _note_ignored(config: ConfigDict, overrides: runs.Overrides) -> None:
    ignored = build.ignored_options(config)
    if config.sampling.solver == "tuned":
        ignored -= {"data_std"}  # of use in tuning
    for key, _ in overrides:
        if key.removeprefix("sampling.") in ignored and key.startswith("sampling."):
            distributed.note(f"solver {config.sampling.solver!r} does not use {key}")
