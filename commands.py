"""The modes of `main.py`: the objects that a configuration describes are built, and handed over to each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor
from tqdm import tqdm

import build
import checkpoints
import configuration
import distributed
import runs
from data import Batches, Dataset, get_augmentation
from errors import UserError, choose
from evaluation.bits_per_dim import describe, summarise
from evaluation.compare import compare as compare_solvers
from evaluation.generation import as_array, draw_samples, write_samples
from evaluation.inception import inception, measure_images
from evaluation.likelihood_report import check_likelihoods, measure_likelihoods, write_likelihoods
from evaluation.measurement import Measurement
from evaluation.parts import digest, remove_parts
from evaluation.progress import progress_measure
from evaluation.recommendation import recommend
from evaluation.report import write_report
from files import write_atomically
from models import NoisyClassifier
from models.dequantisation_flow import DequantisationFlow
from sde import SDE
from solvers import get_solver
from solvers.dequantization import UniformDequantiser, VariationalDequantiser, density_time
from solvers.tuned import save_table, table_path
from solvers.tuning import tune
from training import checkpoint
from training.classification import accuracy_by_level
from training.dequantisation import fit_dequantisation
from training.precision import image_layout, training_precision
from training.trainer import TrainedModel, Trainer

_NUM_PREVIEWS = 36
_NUM_TUNED_STEPS = 10


def train(config_path: str | None, folder: Path, overrides: runs.Overrides) -> None:
    """Train in `folder` until `training.num_steps`, from the beginning or from the newest checkpoint.

    Raises:
        UserError: the configuration is faulty, training diverges, or a file cannot be written.
        Stopped: a signal came.
    """
    config = runs.configuration_to_train(config_path, folder, overrides)
    for change in runs.changes(config, folder):
        _say(change)
    dataset = _make_dataset(config)
    model = build.make_model(config, dataset)
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
    if isinstance(model, NoisyClassifier):
        x_0 = build.in_model_units(config, dataset, dataset.test[: config.training.num_measured])
        measure = accuracy_by_level(x_0, dataset.test_classes, config.training.t_min, config.seed)
        trainer = Trainer(model, objective, batches, held_out, config, folder, None, measure, held_out_classes)
    else:
        measure = _measure(config, dataset, model.sde)
        trainer = Trainer(model, objective, batches, held_out, config, folder, draw, measure, held_out_classes)
    if trainer.step >= config.training.num_steps:
        _say(f"{folder} has had its {trainer.step} steps; for more: --config.training.num_steps={2 * trainer.step}")
        return
    if distributed.rank() == 0:
        configuration.save(config, folder / "config.json")
    size = sum(parameter.numel() for parameter in model.parameters())
    beginning = f", from step {trainer.step}" if trainer.step else ""
    _say(f"training {size:,} parameters on {len(dataset.train):,} {dataset.name} in {folder}{beginning}")
    trainer.run()
    _say(f"trained for {trainer.step} steps: {checkpoint.latest(folder / 'checkpoints')}")


def _measure(config: ConfigDict, dataset: Dataset, sde: SDE) -> Callable[[TrainedModel], dict[str, float]] | None:
    """What training measures now and then, if it is to."""
    if not config.training.measure_every:
        return None

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
    dataset = _make_dataset(config, files_needed=mode != "sample" or found is None or bool(config.sampling.metrics))
    model = build.make_mixture(config, dataset) if found is None else found.make_model(config, dataset)
    model = model.to(distributed.device()).eval().requires_grad_(False)
    if distributed.rank() == 0 and not (folder / "config.json").exists():
        configuration.save(config, folder / "config.json")
    if mode == "sample":
        _note_ignored(config, overrides)
        sample(config, dataset, model, folder, found)
    elif mode == "likelihood":
        likelihood(config, dataset, model, folder, found)
    else:
        compare(config, dataset, model, folder, found)


def sample(
    config: ConfigDict, dataset: Dataset, model: build.AnyModel, folder: Path, found: checkpoints.Found | None
) -> None:
    """Draw the samples that the section `sampling` asks for."""
    sampling, options = config.sampling, {}
    if sampling.solver == "tuned":
        sampling.num_steps = sampling.num_steps or _NUM_TUNED_STEPS
        options["path"] = _tuned_tables(config, dataset, model, folder, found, [sampling.num_steps])
    seeds = list(range(config.seed, config.seed + sampling.num_samples))
    solver = build.make_solver(config, **options)
    samples = draw_samples(model, solver, dataset.shape, seeds, sampling.batch_size)
    if distributed.rank() == 0:
        paths = write_samples(samples, seeds, dataset, folder / "samples", sampling.solver)
        calls = f"{samples.nfe:g} network calls each, {samples.seconds:.1f} s"
        _say(f"{len(seeds)} samples by {sampling.solver}, {calls}: {', '.join(map(str, paths))}")
        if sampling.metrics:
            _measure_images(config, dataset, samples.x, folder / "samples")


def _measure_images(config: ConfigDict, dataset: Dataset, x: Tensor, folder: Path) -> None:
    """Inception's metrics of samples, as the section `sampling` asks for."""
    sampling = config.sampling
    if not dataset.is_image or len(dataset.train) == 0:
        raise UserError(f"sampling.metrics compares images with training images, which {dataset.name} has not")
    weights = Path(sampling.inception) if sampling.inception else None
    names = [name.strip() for name in sampling.metrics.split(",")]
    real = dataset.train if dataset.levels == 256 else dataset.levels_to_uint8(dataset.train).movedim(-1, 1)
    statistics = folder / f"fid_statistics_{digest(dataset.train)}.safetensors"
    extractors = inception(weights, distributed.device())
    values = measure_images(names, dataset.to_uint8(x).movedim(-1, 1), real, extractors, statistics)
    path = folder / f"{sampling.solver}_metrics.json"
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps({**values, "num_samples": len(x), "num_real": len(real)}, indent=2) + "\n")
    _say(", ".join(f"{name} {value:.4g}" for name, value in values.items()) + f": {path}")


def likelihood(
    config: ConfigDict, dataset: Dataset, model: build.AnyModel, folder: Path, found: checkpoints.Found | None
) -> None:
    """The likelihood of examples, as the section `likelihood` has it."""
    settings, options = config.likelihood, build.likelihood_options(config, model.sde, dataset)
    splits = {"test": dataset.test, "validation": dataset.validation, "train": dataset.train}
    examples = choose("split", settings.split, splits)
    examples = examples[: settings.num_examples]
    if len(examples) == 0:
        raise UserError(f"there are no {settings.split} examples: see data.validation")

    dequantiser = build.make_dequantiser(
        config, model.sde, dataset, lambda: _learned_dequantiser(config, dataset, model, folder, found)
    )
    t_min = density_time(dequantiser, settings.t_min)
    options["t_min"] = t_min
    bounds = build.make_bounds(config, model, dataset, t_min)
    measurement = Measurement(model, dequantiser, options, settings.num_draws, bounds, distributed.device())
    about = {
        **settings.to_dict(),
        "dataset": dataset.name,
        "checkpoint": str(found.path) if found else None,
        "seed": config.seed,
        "levels": dataset.levels,
        "t_min": model.sde.t_min if t_min is None else t_min,
    }
    unfinished = folder / "likelihood" / f"{settings.split}.unfinished"
    decisive = {"examples": digest(examples), "weights": digest(*model.state_dict().values()), **about}
    seeds = list(range(config.seed, config.seed + len(examples)))
    measured = measure_likelihoods(measurement, examples, seeds, settings.batch_size, unfinished, decisive)
    if distributed.rank() == 0:
        checked = check_likelihoods(measurement, measured, examples, seeds, settings.num_checks)
        summary = {**about, **summarise(measured, checked, settings.divergence == "exact")}
        paths = write_likelihoods(
            measured, summary, dataset, examples, folder / "likelihood", settings.split, settings.save_latents
        )
        for line in describe(summary):
            _say(line)
        _say(", ".join(map(str, paths)))
    remove_parts(unfinished)


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
    paths = write_report(comparison, folder / "compare", dataset.name)
    _say(recommend(comparison)[1])
    _say(", ".join(map(str, paths)))


def _tuned_tables(
    config: ConfigDict,
    dataset: Dataset,
    model: build.AnyModel,
    folder: Path,
    found: checkpoints.Found | None,
    budgets: Sequence[int],
) -> Path:
    """The folder of tables for solver `tuned`, beside the checkpoint; those that are missing are tuned first."""
    tables = _companions(folder, found)
    for num_steps in budgets:
        path = table_path(tables, num_steps)
        if distributed.rank() == 0 and not path.exists():
            _say(f"tuning a sampler of {num_steps} steps")
            with tqdm(desc="tuning", bar_format="{desc} {elapsed}{postfix}", disable=None) as bar:
                tuned = tune(
                    model,
                    num_steps,
                    dataset.shape,
                    data_std=config.sampling.data_std or 0.5,
                    device=distributed.device(),
                    report=lambda iteration, error: bar.set_postfix(iteration=iteration, held_out_error=f"{error:.3g}"),
                )
            save_table(path, tuned.table, model.sde)
            _say(f"{path}: held-out error {tuned.error:.3g}, untuned {tuned.start_error:.3g}")
    distributed.barrier()
    return tables


def _learned_dequantiser(
    config: ConfigDict, dataset: Dataset, model: build.AnyModel, folder: Path, found: checkpoints.Found | None
) -> VariationalDequantiser:
    """Variational dequantisation for this model, from beside the checkpoint; learned first, if it is missing."""
    if not dataset.is_image:
        raise UserError(f"variational dequantisation is for images, not {dataset.name}")
    path = _companions(folder, found) / "dequantisation.pt"
    torch.manual_seed(config.seed)
    flow = DequantisationFlow(dataset.shape[0], dataset.levels or 0, dataset.low, dataset.bin_width)
    flow = flow.to(distributed.device())
    if distributed.rank() == 0 and not path.exists():
        num_steps, t_min = config.likelihood.flow_steps, config.likelihood.t_min or model.sde.t_min
        with tqdm(total=num_steps, unit="step", desc="learning dequantisation", disable=None) as bar:

            def report(step: int, gain: float) -> None:
                bar.update(step - bar.n)
                bar.set_postfix_str(f"gain {gain:.4f} bits/dim")

            best, gain = fit_dequantisation(flow, model, dataset.train, num_steps, t_min, config.seed, report)
        checkpoint.save({"flow": best.state_dict()}, path)
        _say(f"{path}: {gain:.4f} bits/dim less than with uniform noise, by the variational bound")
    distributed.barrier()
    checkpoint.load_weights(flow, checkpoint.load(path)["flow"], str(path))
    return VariationalDequantiser(flow.cpu())


def _companions(folder: Path, found: checkpoints.Found | None) -> Path:
    """Where what was made for a model lies: beside its checkpoint."""
    return found.path.with_suffix("") if found is not None and found.path.is_file() else folder / "tuned"


def _make_dataset(config: ConfigDict, files_needed: bool = True) -> Dataset:
    """The data; what has to be prepared is prepared by one process of each machine."""
    with distributed.one_first():
        dataset = build.make_dataset(config, files_needed)
    if dataset.note and distributed.rank() == 0:
        print(f"note: {dataset.note}", file=sys.stderr)
    return dataset


def _note_ignored(config: ConfigDict, overrides: runs.Overrides) -> None:
    ignored = build.ignored_options(config)
    if config.sampling.solver == "tuned":
        ignored -= {"data_std"}  # of use in tuning
    for key, _ in overrides:
        if key.removeprefix("sampling.") in ignored and key.startswith("sampling."):
            print(f"note: solver {config.sampling.solver!r} does not use {key}", file=sys.stderr)


def _say(message: str) -> None:
    if distributed.rank() == 0:
        print(message, flush=True)
