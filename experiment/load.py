"""From the command line's words to an experiment: what is to be trained, or used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.data import Dataset
from score_sde.data.captions import CAPTION
from score_sde.data.dataset import described
from score_sde.data.memory import changes, memory_of, overlap, recall
from score_sde.data.words import PARTS
from score_sde.experiment import (
    autoencoders,
    build,
    checkpoints,
    checks,
    configuration,
    control_training,
    controls,
    latent_data,
    networks,
    other_run,
    runs,
)
from score_sde.experiment.captions import check_text_encoder
from score_sde.experiment.couplings import check_pairs
from score_sde.experiment.edit_inputs import names_test_examples
from score_sde.experiment.embeddings import of_embeddings
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.pipelines import dataset_of, pictures_of
from score_sde.experiment.variances import is_measured
from score_sde.models import NoisyClassifier
from score_sde.models.autoencoder import Autoencoder
from score_sde.training import checkpoint

# The file of what a run remembers of its data.
MEMORY = "data.npz"


def to_train(
    config_path: str | None,
    folder: Path,
    overrides: configuration.Overrides,
    make_dataset: Callable[[ConfigDict], Dataset] = build.make_dataset,
) -> Experiment:
    """Make what is needed for training in `folder`, from the beginning or from the newest checkpoint.

    Args:
        config_path: the file of the configuration; that of the run, or one for the kind of data, if left out.
        folder: the folder of the run.
        overrides: values set by hand.
        make_dataset: makes the data, as the section `data` of a configuration has them.

    Raises:
        UserError: the configuration is faulty, or does not fit the data or the run that is there.
    """

    config = runs.configuration_to_train(config_path, folder, overrides, partial(_prepared, make_dataset))
    checks.check(config, "train")
    for change in runs.changes(config, folder):
        distributed.say(change)
    dataset = _prepared(make_dataset, config)
    note(dataset.notes)
    begun = autoencoders.read(checkpoint.data_of_newest(folder / "checkpoints"), str(folder))
    if begun is not None:
        dataset = latent_data.of_latents(config, dataset.in_units_of(begun))
    else:
        dataset = control_training.beside_base(config, latent_data.of_latents(config, dataset))
    note(dataset.unheard())
    begin_from = config.training.start_from if begun is None else None
    model = build.make_model(config, dataset)
    if begin_from is not None and config.model.control:
        note(control_training.begin(model, config, dataset))
    elif begin_from is not None:
        note(checkpoints.start_from(str(other_run.newest(begin_from)), model, config, dataset))
    elif begun is None and config.training.teacher is not None:
        note([_begin_as_teacher(model, config, dataset)])
    build.check_classes(config, dataset)
    if config.data.augment and not dataset.is_image:
        raise UserError(f"data.augment is for images; for {dataset.name}: --config.data.augment=")
    check_pairs(config, build.told_names(config, dataset))
    arrays = {name: len(dataset.condition_units[name].shape) for name in build.told_names(config, dataset)}
    beside = [name for name, axes in arrays.items() if axes > 1 and name != CAPTION]
    if beside and config.data.augment:
        raise UserError(
            f"data.augment would change examples, and not {', '.join(beside)}, which lies beside them: "
            "--config.data.augment="
        )
    unused = networks.unused_attention(config, dataset)
    note([unused] if unused else [])
    return Experiment(config, dataset, model, folder, overrides=overrides)


def to_use(
    mode: str, config_path: str | None, folder: Path, checkpoint_path: Path | None, overrides: configuration.Overrides
) -> Experiment:
    """Load a trained model (or make a mixture, which needs no training), ready for a mode of the command line.

    Raises:
        UserError: the configuration or the checkpoint is faulty or missing.
    """
    config, found = runs.configuration_to_use(config_path, folder, checkpoint_path, overrides)
    checks.check(config, mode)
    dataset = _dataset_to_use(mode, config, found)
    if mode in ("likelihood", "compare"):
        part = config.likelihood.split if mode == "likelihood" else "test"
        _note_changes(
            controls.as_trained(dataset, found), (checkpoint.run_of(found.path) if found else None) or folder, part
        )
    if mode not in ("sample", "likelihood") and dataset.has_gaps:
        raise UserError(
            f"{dataset.name} lacks numbers, and mode {mode} is for whole examples: load the run from Python, for "
            "run.fill(x) and run.log_prob(x)"
        )
    experiment = ready(config, found, dataset, folder, overrides, autoencoders=mode == "likelihood")
    note(experiment.dataset.unheard())
    if found is not None and distributed.rank() == 0 and checkpoints.is_strange(found.path, folder):
        note([f"{folder} is the run of another model than {found.path}: see --workdir"])
    return experiment


def ready(
    config: ConfigDict,
    found: checkpoints.Found | None,
    dataset: Dataset,
    folder: Path,
    overrides: configuration.Overrides = (),
    autoencoders: bool = False,
) -> Experiment:
    """Make the experiment of a trained model, on the device, with the data in the units that it was trained in.

    Raises:
        UserError: the checkpoint does not fit the configuration or the data, or is that of a classifier, or, unless
            these will do, of one of the `autoencoders`.
    """
    if found is not None and found.data is not None:
        dataset = dataset.in_units_of(found.data)
    if found is None:
        dataset = latent_data.of_latents(config, dataset)
    check_text_encoder(config, dataset)
    for key, usual in {"precision": "float32", "lora": None, "offload": False}.items():
        if config.model[key] != usual and (found is None or found.pipeline is None):
            raise UserError(f"model.{key}={config.model[key]} is for pipelines of latents: leave it out")
    model = build.make_mixture(config, dataset) if found is None else found.make_model(config, dataset)
    place = folder if found is None or found.config is not None else found.path
    if isinstance(model, Autoencoder) and not autoencoders:
        raise UserError(
            f"this is an autoencoder, which --mode likelihood measures: train a model of its latents, "
            f"--config.data.autoencoder={place}"
        )
    if isinstance(model, NoisyClassifier):
        raise UserError(
            f"this is a classifier: give it to a model of {dataset.name}, --config.sampling.classifier={place}"
        )
    # Where its parts lie, a pipeline decides by itself.
    model = model if found is not None and found.pipeline is not None else model.to(distributed.device())
    model = model.eval().requires_grad_(False)
    return controls.joined(Experiment(config, dataset, model, folder, found, overrides))


def remember(config: ConfigDict, folder: Path) -> None:
    """Write down with what configuration a model was used first, but for the edit, which is made once."""
    if distributed.rank() == 0 and not (folder / "config.json").exists():
        kept = {name: section for name, section in config.to_dict().items() if name != "edit"}
        configuration.save(configuration.from_dict(kept, "the configuration"), folder / "config.json")


def _begin_as_teacher(model: build.Trained, config: ConfigDict, dataset: Dataset) -> str:
    """Give a few-step model the weights of its teacher, if it has its network; return what the user should know."""
    place = str(other_run.newest(config.training.teacher))
    try:
        return checkpoints.start_from(place, model, config, dataset)[0]
    except UserError as error:
        return f"training begins anew, not with the weights of the teacher: {error}"


def note(lines: Iterable[str]) -> None:
    """Print each line as a note."""
    for line in lines:
        distributed.note(line)


def _make_dataset(config: ConfigDict, files_needed: bool = True) -> Dataset:
    """Make the data, and print what is noted of them."""
    dataset = _prepared(lambda config: build.make_dataset(config, files_needed), config)
    note(dataset.notes)
    return dataset


def _prepared(make_dataset: Callable[[ConfigDict], Dataset], config: ConfigDict) -> Dataset:
    """Make data; what has to be prepared is prepared by one process of each machine."""
    with distributed.one_first():
        return of_embeddings(config, make_dataset(config))


def _dataset_to_use(mode: str, config: ConfigDict, found: checkpoints.Found | None) -> Dataset:
    """Make the data, or, where no example of them is needed, take what the checkpoint knows of them."""
    if found is not None and found.pipeline is not None:
        if mode == "likelihood" and config.data.path is None:
            raise UserError("latents are not among the data here: give a file of them, --config.data.path=FILE.npz")
        if mode == "edit" and config.data.path is None:
            if names_test_examples(config.edit.input):
                raise UserError(
                    "a pipeline has no test examples: give pictures, --config.edit.input=FILE, or latents, "
                    "--config.data.path=FILE.npz"
                )
            return pictures_of(found.pipeline, config)
        return dataset_of(found.pipeline, config)
    known = None if found is None else found.data
    measured = is_measured(config.sampling.variance)
    drawn = mode == "sample" and not (config.sampling.metrics or config.sampling.copies or measured)
    if known is not None and (drawn or mode == "export") and build.lie_nowhere(config):
        return described(known, config.data.low, config.data.high, config.data.uniform_dequantisation)
    if mode == "export":
        return of_embeddings(config, build.make_dataset(config, files_needed=False))
    if not (drawn or (mode == "edit" and not names_test_examples(config.edit.input))):
        return _make_dataset(config)
    if known is None:
        classes_needed = build.knows_classes(config) or config.sampling.labels is not None
        classes_needed = classes_needed and config.data.num_classes is None
        return _make_dataset(config, files_needed=found is None or classes_needed)
    without_examples = described(known, config.data.low, config.data.high, config.data.uniform_dequantisation)
    if without_examples.is_image:
        return without_examples
    # What is no picture is shown beside examples of the data.
    try:
        return _make_dataset(config)
    except UserError as error:
        note([f"sampled without the data: {error}"])
        return without_examples


def _note_changes(dataset: Dataset, run: Path, part: str) -> None:
    """Note how a part of the data differs from the one that a run was trained on, if the run remembers its data."""
    before = recall(run / MEMORY) if distributed.rank() == 0 else None
    memory = {} if before is None else memory_of(dataset)
    parts = [known for known in PARTS if known == part and len(memory.get(known, ()))]
    if before is not None and parts:
        note([*changes(memory, before, parts), *overlap(memory, before, [p for p in parts if p != "train"])])
