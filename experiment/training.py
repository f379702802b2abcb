"""Training an experiment's model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.distributed import say
from score_sde.common.errors import UserError, naming
from score_sde.common.files import write_atomically
from score_sde.common.interruption import keeping
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch, Batches, Dataset, get_augmentation
from score_sde.data.captions import CAPTION, Words
from score_sde.data.embedded import Embedded
from score_sde.data.memory import changes, check_conditions, memory_of, overlap, recall, remember
from score_sde.data.words import HELD_OUT, PARTS, Part
from score_sde.evaluation.likelihood.dequantisation import Dequantiser, UniformDequantiser
from score_sde.evaluation.progress import progress_measure
from score_sde.evaluation.samples.draw import as_array, draw_samples, shown_examples
from score_sde.experiment import build, configuration, own
from score_sde.experiment.autoencoder_objective import make_autoencoding
from score_sde.experiment.autoencoders import shown_reconstructions, written
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.couplings import OPTIMAL_TRANSPORT, why_no_score
from score_sde.experiment.density import make_dequantiser
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.load import MEMORY, note
from score_sde.experiment.low_resolution import always_told, with_noise_of_held_out, with_noise_of_samples
from score_sde.experiment.networks import AUTOENCODERS, CLASSIFIERS, JOINT_EMBEDDING, names_of_controls
from score_sde.experiment.objectives import make_objective, unused_keys
from score_sde.experiment.parts import held_out_in_parts, kinds_of_masks
from score_sde.experiment.solver import make_solver
from score_sde.experiment.teacher import make_teacher
from score_sde.models import Given
from score_sde.models.autoencoder import Autoencoder
from score_sde.models.joint_embedding import JointEmbedding
from score_sde.sde import SDE
from score_sde.solvers import get_solver
from score_sde.training import checkpoint
from score_sde.training.autoencoding import Autoencoding, autoencoder_measure
from score_sde.training.classification import accuracy_by_log_snr
from score_sde.training.contrastive import retrieval
from score_sde.training.logs import Preview
from score_sde.training.loss_by_noise import LossByNoise
from score_sde.training.loss_means import LossByTerm, LossMeans
from score_sde.training.objectives import Losses
from score_sde.training.precision import image_layout, training_precision
from score_sde.training.trainer import Trainer

# Augmentations, in words.
_CHANGES = {"flip": "mirrored left to right", "shift": "moved by a pixel", "distort": "distorted"}
# Networks of which nothing is hidden, and which draw no samples.
_ALL_TOLD = (*CLASSIFIERS, JOINT_EMBEDDING)
_NUM_NAMED = 10
_NUM_PREVIEWS = 36
_NUM_JUMPS = 4
_NUM_PREVIEWS_OF_VECTORS = 400


def train(experiment: Experiment) -> None:
    """Train an experiment's model until `training.num_steps` steps are done, and say what comes of it.

    Raises:
        UserError: training diverges, or a file cannot be written.
        Stopped: a signal came.
    """
    dataset, folder = experiment.dataset, experiment.folder
    trainer = make_trainer(experiment)
    if trainer.ended:
        more = "patience=0" if trainer.stopped_early else f"num_steps={2 * trainer.step}"
        early = ", and stopped early" if trainer.stopped_early else ""
        say(f"{folder} has had its {trainer.step} steps{early}; for more: --config.training.{more}")
        return
    begin(experiment, trainer)
    size = sum(parameter.numel() for parameter in experiment.model.parameters())
    beginning = f", from step {trainer.step}" if trainer.step else ""
    say(f"training {size:,} parameters on {len(dataset.train):,} {dataset.name} in {folder}{beginning}")
    for line in notes_on_data(experiment):
        say(line)
    by_hand = [key.removeprefix("training.") for key, _ in experiment.overrides if key.startswith("training.")]
    for key in unused_keys(experiment.config.training.objective, by_hand):
        distributed.note(f"objective {experiment.config.training.objective!r} does not use training.{key}")

    def kept() -> str:
        newest = checkpoint.latest(folder / "checkpoints") or "none yet"
        return (
            f"stopped within step {trainer.step + 1}, which is not saved; the newest checkpoint: {newest}; to go on: "
            f"python main.py --mode train --workdir {folder}"
        )

    with keeping(kept):
        trainer.train()
    say(f"trained for {trainer.step} steps: {checkpoint.latest(folder / 'checkpoints')}")
    if trainer.stopped_early:
        say(f"stopped early: the last {trainer.best.since} held-out losses were not the lowest")
    if trainer.best.step:
        best = checkpoint.best_in(folder / "checkpoints")
        say(f"the lowest held-out loss, {trainer.best.loss:.4f}, was that of step {trainer.best.step}: {best}")


def make_trainer(experiment: Experiment) -> Trainer:
    """Make the trainer of an experiment's model, which begins where the newest checkpoint of its folder ends.

    Raises:
        UserError: the configuration does not fit the number of processes, or the checkpoint does not fit it.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    if config.training.shard and distributed.world_size() == 1:
        raise UserError("training.shard divides a network among processes: start several with torchrun")
    parts = config.training.accumulation * distributed.world_size()
    if config.training.batch_size % parts:
        raise UserError(
            f"training.batch_size={config.training.batch_size} cannot be divided among {distributed.world_size()} "
            f"processes in {config.training.accumulation} parts each"
        )
    if config.model.network == JOINT_EMBEDDING and parts > 1:
        raise UserError(
            "a joint embedding compares all examples of a batch, which is not divided: train it with one process, and "
            "--config.training.accumulation=1"
        )
    names = build.told_names(config, dataset)
    batches = Batches(
        dataset,
        config.training.batch_size,
        config.seed,
        get_augmentation(config.data.augment),
        config.data.distortion,
        distributed.rows(),
        distributed.device(),
        labelled=build.knows_classes(config),
        label_dropout=0.0 if config.model.network in _ALL_TOLD else config.training.label_dropout,
        names=names,
        in_parts=config.data.missing,
        masks=kinds_of_masks(config),
        # Where a control's picture is hidden there is the frozen model, from which nothing is to be learnt.
        always=(*names_of_controls(config), *always_told(config)),
        low_resolution_noise=config.data.low_resolution_noise,
    )
    no_times = (*AUTOENCODERS, JOINT_EMBEDDING)
    without_times = config.model.network in no_times or own.is_own(config.training.objective)
    told = dataset.condition_of("validation", labelled=build.knows_classes(config), names=names)
    told = with_noise_of_held_out(config, dataset, told)
    held_out = held_out_in_parts(config, dataset, Batch(dataset.encode(dataset.validation, config.seed), told))
    # What has no process is trained beside that of the configuration, which is not used.
    sde = build.make_sde(config) if isinstance(model, Autoencoder | JointEmbedding) else model.sde
    objective = _objective(experiment, sde)
    means: LossMeans | None = None if without_times else LossByNoise(sde, config.training.t_min)
    if isinstance(objective, Autoencoding) and objective.names:
        means = LossByTerm(objective.names)
    # Weights that are divided among processes lie as they come (FSDP takes no others).
    if dataset.is_image and not config.training.shard:
        device = distributed.device()
        precision = training_precision(config.training.precision, device)
        layout = image_layout(precision, device, config.training.channels_last)
        model = model.to(memory_format=layout)
    if config.training.compile:
        model.network.compile()
    return Trainer(
        model,
        objective,
        batches,
        held_out,
        config,
        experiment.folder,
        means=means,
        draw=None if config.model.network in _ALL_TOLD else _preview(config, dataset),
        measure=_measure(config, dataset, sde),
        data=written(dataset.description),
        check_data=lambda data, where: dataset.check_like(data, build.knows_classes(config), where),
        unit=dataset.kind,
    )


def _objective(experiment: Experiment, sde: SDE) -> Callable[[Any, Batch, BatchNoise], Losses]:
    """Make the loss of the section `training`."""
    config, dataset = experiment.config, experiment.dataset
    if isinstance(experiment.model, Autoencoder) and not own.is_own(config.training.objective):
        return make_autoencoding(config, dataset)
    return make_objective(config, sde, make_teacher(config, dataset, sde))


def begin(experiment: Experiment, trainer: Trainer) -> None:
    """Write down the configuration and the data of a run, and note how the data have changed since it was begun."""
    if distributed.rank() > 0:
        return
    memory = memory_of(experiment.dataset)
    before = recall(experiment.folder / MEMORY) if trainer.step else None
    if before is not None:
        check_conditions(memory, before)
    note([*([] if before is None else changes(memory, before)), *overlap(memory, before)])
    configuration.save(experiment.config, experiment.folder / "config.json")
    remember(memory, experiment.folder / MEMORY, before)
    _describe_data(experiment)


def notes_on_data(experiment: Experiment) -> list[str]:
    """Say how many classes there are, whether the network is told of them, and what is done to examples in training."""
    config, dataset = experiment.config, experiment.dataset
    lines = []
    if why_no_score(config):
        lines.append(f"the model will be a flow and no score: {why_no_score(config)}")
    if config.training.coupling == OPTIMAL_TRANSPORT:
        together = config.training.batch_size // (config.training.accumulation * distributed.world_size())
        lines.append(f"optimal transport pairs {together} examples at a time with noise, those told the same")
    if dataset.num_classes:
        called = ", ".join(dataset.class_names[:_NUM_NAMED]) + ", …" * (dataset.num_classes > _NUM_NAMED)
        told = "is told of" if build.knows_classes(config) else "is not told of (model.class_conditional)"
        if config.model.network in CLASSIFIERS:
            told = "learns"
        lines.append(f"{dataset.num_classes} classes, which the network {told}: {called}")
    for name in build.told_names(config, dataset):
        units = dataset.condition_units[name]
        if isinstance(units, Words):
            lines.append(f"the network is told {name}s of {len(units.vocabulary)} words, up to {units.length} each")
            continue
        if isinstance(units, Embedded):
            lines.append(
                f"the network is told {name}s by the text encoder {units.digest} in {units.folder}, up to "
                f"{units.length} tokens of {units.width} numbers each"
            )
            continue
        shape = units.shape
        lines.append(f"the network is told of the condition {name}, {' x '.join(map(str, shape))} numbers an example")
    if kinds_of_masks(config) and "all" not in kinds_of_masks(config):
        lines.append("no mask hides all (data.masks=…,all), so that the model fills, and knows no whole examples")
    changes = [_CHANGES[name.strip()] for name in config.data.augment.split(",") if name.strip()]
    if config.data.distortion:
        changes.append(f"{config.data.distortion:.0%} of them distorted, which the network is told")
    if kinds_of_masks(config):
        changes.append(f"hidden in part ({', '.join(kinds_of_masks(config))}), and the network told the rest")
    if changes:
        lines.append(f"training examples are changed at random: {', '.join(changes)}")
    return lines


def _describe_data(experiment: Experiment) -> None:
    """Write down what the data are, for people."""
    dataset = experiment.dataset
    about = {
        "name": dataset.name,
        "kind": dataset.kind,
        "shape": list(dataset.shape),
        "levels": dataset.levels,
        **{f"num_{part}": len(getattr(dataset, part)) for part in PARTS},
        "notes": [*notes_on_data(experiment), *dataset.notes],
    }
    with write_atomically(experiment.folder / "data.json") as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _preview(config: ConfigDict, dataset: Dataset) -> Callable[[Any], Preview] | None:
    """Return a function that draws a few samples of a model in training, to be looked at; None if it draws none."""
    if config.model.network in CLASSIFIERS:
        return None
    if config.model.network in AUTOENCODERS:
        return shown_reconstructions(dataset)
    if config.model.flow_map:
        solver = get_solver("consistency", num_steps=_NUM_JUMPS)
    else:
        solver = get_solver("default", num_steps=20, data_std=config.sampling.data_std or 0.5)
    count = _NUM_PREVIEWS_OF_VECTORS if dataset.kind == "vectors" else _NUM_PREVIEWS
    seeds = list(range(config.seed, config.seed + count))
    told = with_noise_of_samples(config, dataset, _told_of_previews(config, dataset, count), seeds)

    def draw(model: Any) -> Preview:
        asked = model if told is None else Given(model, told.to(distributed.device()))
        samples = draw_samples(asked, solver, dataset.model_shape, seeds, count, progress=False)
        return Preview(dataset.kind, as_array(samples.x.nan_to_num(), dataset), shown_examples(dataset))

    return draw


def _told_of_previews(config: ConfigDict, dataset: Dataset, count: int) -> Condition | None:
    """Return the conditions of the first held-out examples, in turn, where the network is told of more than classes, or
    is always told these."""
    names, labelled = build.told_names(config, dataset), build.knows_classes(config)
    if not names and (config.training.label_dropout or not labelled):
        return None
    part: Part = next((held_out for held_out in HELD_OUT if len(getattr(dataset, held_out))), "train")
    rows = torch.arange(count) % len(getattr(dataset, part))
    return dataset.condition_of(part, rows, labelled=labelled, names=names)


def _measure(config: ConfigDict, dataset: Dataset, sde: SDE) -> Callable[[Any], dict[str, float]] | None:
    """Return a function that measures a model in training now and then; None if it is not to be measured."""
    if not config.training.measure_every:
        return None
    if config.model.network in CLASSIFIERS:
        if dataset.test_classes is None or not len(dataset.test):
            return None
        count = config.training.num_measured
        x_0 = dataset.encode(dataset.test[:count], config.seed)
        return accuracy_by_log_snr(
            x_0, Condition({"class": dataset.test_classes[:count]}), config.training.t_min, config.seed
        )

    if config.model.network in AUTOENCODERS:
        examples = next((part for part in (dataset.validation, dataset.test) if len(part)), dataset.train)
        return autoencoder_measure(dataset.units.encode(examples[: config.training.num_measured]), config.seed)
    if config.model.network == JOINT_EMBEDDING:
        held_out: Part = next((each for each in HELD_OUT if len(getattr(dataset, each))), "train")
        x_0 = dataset.encode(getattr(dataset, held_out)[: config.training.num_measured], config.seed)
        return retrieval(x_0, dataset.condition_of(held_out, slice(0, len(x_0)), labelled=False, names=[CAPTION]))
    with naming("training.measure_every draws samples that are told nothing, and 0 draws none"):
        check_heard(config, dataset, None, names_of_controls(config))
    if dataset.has_gaps:
        raise UserError(
            "samples are measured beside whole examples, and some of these lack numbers: training.measure_every=0"
        )

    def dequantiser(sde: SDE) -> Dequantiser:
        return make_dequantiser(config, sde, dataset, learn=lambda: UniformDequantiser(dataset.quantised.bins))

    # What does not fit is refused before training.
    dequantiser(sde)
    solver, count = make_solver(config), config.training.num_measured
    return progress_measure(dataset, dequantiser, config.likelihood.t_min, solver, count, config.seed)
