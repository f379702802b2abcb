"""The modes of `main.py`: the objects that a configuration describes are built, and handed over to each other."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from ml_collections import ConfigDict

import build
import configuration
import distributed
import runs
from data import Batches, Dataset, get_augmentation
from errors import UserError
from evaluation.generation import as_array, draw_samples, write_samples
from solvers import get_solver
from training import checkpoint
from training.trainer import TrainedModel, Trainer

_NUM_PREVIEWS = 36


def train(config_path: str | None, folder: Path, overrides: runs.Overrides) -> None:
    """Train in `folder` until `training.num_steps`, from the beginning or from the newest checkpoint.

    Raises:
        UserError: the configuration is faulty, training diverges, or a file cannot be written.
        Stopped: a signal came.
    """
    config = runs.configuration_to_train(config_path, folder, overrides)
    dataset = build.make_dataset(config)
    model = build.make_model(config, dataset)
    batches = Batches(dataset, config.training.batch_size, config.seed, get_augmentation(config.data.augment))
    held_out = dataset.dequantise(dataset.validation, torch.Generator().manual_seed(config.seed))
    objective = build.make_objective(config, model.sde)
    preview = get_solver("dpmpp_2m", num_steps=20)

    def draw(model: TrainedModel) -> np.ndarray:
        seeds = list(range(config.seed, config.seed + _NUM_PREVIEWS))
        return as_array(draw_samples(model, preview, dataset.shape, seeds, _NUM_PREVIEWS, progress=False).x, dataset)

    if dataset.is_image:
        # Convolutions run fastest with the channels last in memory, as long as weights are differentiated, too.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(model, objective, batches, held_out, config, folder, draw)
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


def use(
    mode: str, config_path: str | None, folder: Path, checkpoint_path: Path | None, overrides: runs.Overrides
) -> None:
    """Sample from a trained model, or evaluate it.

    Raises:
        UserError: the configuration or the checkpoint is faulty or missing, or a file cannot be written.
    """
    config, state, path = runs.trained(config_path, folder, checkpoint_path, overrides)
    dataset = build.make_dataset(config, files_needed=mode != "sample")
    model = build.make_model(config, dataset)
    checkpoint.load_weights(model.network, state["ema"], str(path))
    model = model.to(distributed.device()).eval().requires_grad_(False)
    if distributed.rank() == 0 and not (folder / "config.json").exists():
        configuration.save(config, folder / "config.json")
    if mode == "sample":
        _note_ignored(config, overrides)
        sample(config, dataset, model, folder)
    elif mode == "likelihood":
        likelihood(config, dataset, model, folder)
    else:
        compare(config, dataset, model, folder)


def sample(config: ConfigDict, dataset: Dataset, model: TrainedModel, folder: Path) -> None:
    """Draw the samples that the section `sampling` asks for."""
    sampling = config.sampling
    seeds = list(range(config.seed, config.seed + sampling.num_samples))
    samples = draw_samples(model, build.make_solver(config), dataset.shape, seeds, sampling.batch_size)
    if distributed.rank() == 0:
        paths = write_samples(samples, seeds, dataset, folder / "samples", sampling.solver)
        calls = f"{samples.nfe:g} network calls each, {samples.seconds:.1f} s"
        _say(f"{len(seeds)} samples by {sampling.solver}, {calls}: {', '.join(map(str, paths))}")


def likelihood(config: ConfigDict, dataset: Dataset, model: TrainedModel, folder: Path) -> None:
    """The likelihood of examples, as the section `likelihood` has it."""
    raise UserError("not yet")


def compare(config: ConfigDict, dataset: Dataset, model: TrainedModel, folder: Path) -> None:
    """Solvers side by side, as the section `compare` has it."""
    raise UserError("not yet")


def _note_ignored(config: ConfigDict, overrides: runs.Overrides) -> None:
    ignored = build.ignored_options(config.sampling)
    for key, _ in overrides:
        if key.removeprefix("sampling.") in ignored and key.startswith("sampling."):
            print(f"note: solver {config.sampling.solver!r} does not use {key}", file=sys.stderr)


def _say(message: str) -> None:
    if distributed.rank() == 0:
        print(message, flush=True)
