"""The doors from Python: `fit` trains on data and `load` opens what was trained; both give a `Run`.

    run = fit(x, num_steps=2000)           arrays, or the path of data, in; a trained run out
    run = load("runs/digits")              a run's folder, a checkpoint by itself, a published one, a pipeline

A run is trained as the command line trains one, with the same numbers: `fit("data.npy", workdir="runs/data")` and
`main.py --mode train --config.data.path=data.npy` give the same weights, to the last bit.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from torch import nn

from score_sde.common import distributed
from score_sde.common.arguments import checked
from score_sde.common.errors import Stopped, UserError
from score_sde.common.files import at_home
from score_sde.data import DATASETS, Dataset
from score_sde.data.dataset import described
from score_sde.data.sources.given_conditions import tells_classes
from score_sde.experiment import build, checkpoints, configuration, own, runs
from score_sde.experiment import load as loading
from score_sde.experiment.autoencoder_run import AutoencoderRun
from score_sde.experiment.cascade_run import Cascade
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.pipeline_run import PipelineRun
from score_sde.experiment.pipelines import dataset_of
from score_sde.experiment.report import report
from score_sde.experiment.run import Run
from score_sde.experiment.stages import find_stages
from score_sde.experiment.training import train
from score_sde.models.autoencoder import Autoencoder
from score_sde.sde import SDE
from score_sde.training import checkpoint


@checked
def fit(
    x: Any,
    *,
    condition: Any = None,
    box: tuple[Any, Any] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    num_steps: int | None = None,
    network: nn.Module | str | None = None,
    sde: SDE | str | None = None,
    objective: Callable[..., Any] | str | None = None,
    start_from: str | os.PathLike[str] | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """Train a model on data, and return the run.

    Ctrl-C ends training early, and what has been learnt so far is returned.

    Args:
        x: examples: an array or tensor `(N, *shape)`, a torch dataset or any iterable of examples, a `Dataset`; or
            the path of data, or the name of one that is embedded, such as "digits". Pictures are uint8; what has no
            levels, vectors `(N, d)`, series `(N, C, L)`, fields `(N, C, H, W)` or volumes `(N, C, D, H, W)`, floats.
        condition: the class of each example, by name or number, for a model that knows `p(x | class)`; or numbers,
            vectors `(N, k)`, or pictures, fields or series `(N, C, *size)` that lie beside the examples; or several of
            these by name, as `{"class": labels, "low": fields}`.
        box: `(low, high)`, the ends of a box that vectors lie in, such as that of a uniform prior, each one number, or
            one for each of a vector's: no sample leaves it, and outside the density is 0.
        workdir: the folder of the run, where a run goes on that is there; without one nothing is left behind.
        config: a configuration, such as "vp/vectors", or the path of one; the one for the kind of data if left out.
        num_steps: training steps.
        network: called as `network(x, noise_label)`; or `package.module:Name`. It is trained in
            place; the run has the moving average of its weights in a copy.
        sde: the forward process, or `package.module:Name`.
        objective: called as `objective(model, batch, noise)`, returns losses `(B,)`; or `package.module:name`.
        start_from: weights to begin with: a checkpoint of ours, a published one, or a pipeline of diffusers.
        device: where to compute, as "cpu" or "cuda"; a GPU if there is one, if left out.
        settings: any keys of the configuration, as {"training.batch_size": 64}.

    Raises:
        UserError: the data cannot be read rightly, a setting is none, or training diverges.
    """
    distributed.use_device(device)
    named = _named_data(x)
    if named and condition is not None:
        raise UserError("data from a path have their classes and conditions with them: leave the condition out")
    values: dict[str, Any] = {**named} if named else {"data.dataset": build.ARRAYS, "data.path": None}
    handed_over = {"model.network": network, "sde.name": sde, "training.objective": objective}
    values |= {key: _name_of(thing) for key, thing in handed_over.items() if thing is not None}
    values |= {} if num_steps is None else {"training.num_steps": num_steps}
    values |= {} if start_from is None else {"training.start_from": os.fspath(start_from)}
    values |= {} if not tells_classes(condition) else {"model.class_conditional": True}
    values |= {} if box is None else _keys_of_box(box)
    values |= settings or {}
    overrides = [(key, str(value)) for key, value in values.items()]
    make_dataset = build.make_dataset if named else partial(_dataset_of, x, condition)
    folder = Path(tempfile.mkdtemp(prefix="score_sde_")) if workdir is None else at_home(workdir)
    run = None
    try:
        run = _trained(config, folder, overrides, make_dataset)
        if workdir is not None:
            report(folder)
    finally:
        if workdir is None:
            # The folder vanishes with the run, or with the hope of one.
            weakref.finalize(run, shutil.rmtree, folder, True) if run else shutil.rmtree(folder, True)
    return run


def _trained(
    config: str | os.PathLike[str] | None,
    folder: Path,
    overrides: configuration.Overrides,
    make_dataset: Callable[[ConfigDict], Dataset],
) -> Run:
    """Train in a folder, and return the run."""
    config_path = None if config is None else os.fspath(config)
    experiment = loading.to_train(config_path, folder, overrides, make_dataset)
    try:
        train(experiment)
    except Stopped as stopped:
        if stopped.exit_code != 128 + signal.SIGINT or checkpoint.latest(folder / "checkpoints") is None:
            raise
        distributed.note(f"{stopped}; this run is what has been learnt so far")
    found = checkpoints.find(checkpoint.latest(folder / "checkpoints"))  # type: ignore[arg-type]
    return _run_of(loading.ready(experiment.config, found, experiment.dataset, folder, overrides, autoencoders=True))


@checked
def load(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    network: nn.Module | None = None,
    sde: SDE | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """Open a trained run.

    Args:
        path: the folder of a run, of which the newest checkpoint is taken, or of a cascade; a checkpoint by itself,
            `.pt` or `.safetensors`; a published one, with its configuration; or a pipeline of diffusers.
        config: the configuration, where the checkpoint does not say it.
        network: the network, where it is one of your own that cannot be made by its name.
        sde: the process, likewise.
        device: where to compute, as "cpu" or "cuda"; a GPU if there is one, if left out.
        settings: keys of the configuration that are to be otherwise, as {"sampling.num_steps": 10}.

    Raises:
        UserError: there is nothing there, or it is not what it should be.
    """
    distributed.use_device(device)
    place = at_home(path)
    is_run = (place / "checkpoints").is_dir() or (place / "config.json").is_file()
    folder = place if is_run else checkpoint.run_of(place) or runs.workdir_for(None, str(place))
    overrides = [(key, str(value)) for key, value in (settings or {}).items()]
    config_path = None if config is None else os.fspath(config)
    stages = find_stages(config_path, folder, overrides) if is_run else None
    if stages is not None:
        if network is not None or sde is not None:
            raise UserError("a cascade has several networks: load its stages, each from its own folder")
        runs_of = {s.name: load(s.folder, device=device, settings=dict(s.overrides)) for s in stages.all}
        return Cascade(runs_of, folder)
    chosen, found = runs.configuration_to_use(config_path, folder, None if is_run else place, overrides)
    for section, thing in (("model.network", network), ("sde.name", sde)):
        if thing is not None:
            _hand_over_again(chosen, section, thing)
    experiment = _ready(chosen, found, folder, overrides)
    pipeline = None if found is None else found.pipeline
    return _run_of(experiment) if pipeline is None else PipelineRun(experiment, pipeline)


def _run_of(experiment: Experiment) -> Run:
    """Return the run of a trained model, or of an autoencoder."""
    return AutoencoderRun(experiment) if isinstance(experiment.model, Autoencoder) else Run(experiment)


def _ready(config: ConfigDict, found: checkpoints.Found | None, folder: Path, overrides: Any) -> Experiment:
    """Make the experiment of a checkpoint, without its data where it describes them."""
    if found is not None and found.pipeline is not None:
        dataset = dataset_of(found.pipeline, config)
    elif found is not None and found.data is not None:
        dataset = described(found.data, config.data.low, config.data.high, config.data.uniform_dequantisation)
    else:
        dataset = build.make_dataset(config, files_needed=found is None)
    return loading.ready(config, found, dataset, folder, overrides, autoencoders=True)


def _named_data(x: Any) -> dict[str, str]:
    """Return the keys of data that are named, by path or as one that is embedded; none of what is given itself."""
    if not isinstance(x, str | os.PathLike):
        return {}
    embedded = isinstance(x, str) and (x in DATASETS or own.is_own(x)) and not Path(x).exists()
    return {"data.dataset" if embedded else "data.path": os.fspath(x)}


def _keys_of_box(box: tuple[Any, Any]) -> dict[str, str]:
    """Return the keys of a box whose ends are numbers, or arrays of them.

    Raises:
        UserError: it has no two ends.
    """
    try:
        low, high = (np.asarray(end, dtype=np.float64).reshape(-1).tolist() for end in box)
    except (TypeError, ValueError) as error:
        raise UserError(f"a box is (low, high), numbers or one for each of a vector's, not {box}") from error
    return {"data.box_low": str(low), "data.box_high": str(high)}


def _dataset_of(x: Any, condition: Any, config: ConfigDict) -> Dataset:
    """Make a dataset of examples that were given from Python, read as the section `data` has it."""
    if isinstance(x, Dataset):
        if config.data.box_low:
            raise UserError("a Dataset has its units already: give the box to load_dataset, box_low=…, box_high=…")
        return x
    return build.dataset_of_arrays(x, condition, config)


def _name_of(thing: Any) -> str:
    return thing if isinstance(thing, str) else own.hand_over(thing)


def _hand_over_again(config: ConfigDict, key: str, thing: Any) -> None:
    section, name = key.split(".")
    if not own.is_own(config[section][name]):
        raise UserError(f"this run has {key}={config[section][name]}, which needs nothing handed over")
    own.hand_over(thing, config[section][name])
