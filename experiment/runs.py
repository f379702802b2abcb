"""Which configuration rules: that of a file, or that of a run; and where they may not differ.

A run's folder remembers its configuration in `config.json`, and so does each of its checkpoints. What decides the
weights (data, process, network) may not change between the beginning of a run and its continuation or its use; the rest
may.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from score_sde.common.errors import UserError
from score_sde.data.dataset import Dataset, Kind
from score_sde.experiment import checkpoints, configuration, controls, other_run, rules
from score_sde.experiment.configuration import Overrides
from score_sde.experiment.solver import drop_steps_of_another_solver
from score_sde.training import checkpoint

DEFAULT_CONFIG = "configs/vp/digits.py"
# The configurations for data of one's own, or others that are named, by their kind.
CONFIG_OF: dict[Kind, str] = {
    "vectors": "configs/vp/vectors.py",
    "series": "configs/vp/series.py",
    "images": "configs/vp/own.py",
    "fields": "configs/vp/fields.py",
    "volumes": "configs/vp/volumes.py",
}
DEFAULT_WORKDIR = Path("runs/digits")
# Keys of the data that are properties of the network: what it is told besides, and whose latents it is of.
_OF_NETWORK = (
    *("data.distortion", "data.autoencoder", "data.masks", "data.missing"),
    *("data.edges", "data.low_resolution_noise"),
)


def workdir_for(config_path: str | None, checkpoint_path: str | None = None, overrides: Overrides = ()) -> Path:
    """Return the folder that is meant when none is given.

    It is the run's own for a checkpoint of a run; `runs/ve_digits` for `configs/ve/digits.py` or `ve/digits`; without a
    configuration, `runs/ddpm-cifar10-32` for the pipeline `google/ddpm-cifar10-32` and `runs/best` for `best.pt`; for
    data of one's own, `runs/photos` for `photos.zip`, or `runs/ve_digits_photos`.
    """
    if checkpoint_path is not None:
        run = checkpoint.run_of(Path(checkpoint_path))
        if run is not None:
            return run
        if config_path is None:
            path = Path(checkpoint_path)
            return Path("runs", path.resolve().name if checkpoints.is_pipeline(path) else path.stem)
    given = dict(overrides)
    data = given.get("data.path") or given.get("data.dataset")
    own = [Path(data).name.split(".")[0].replace(":", "_") or "data"] if data else []
    named = Path(config_path) if config_path else None
    if named is not None and "configs" not in named.parts and not named.is_file():
        # The path is short for one of the project's own configurations.
        named = Path("configs", named).with_suffix(".py")
    usual = map(Path, CONFIG_OF.values()) if own else [Path(DEFAULT_CONFIG)]
    if named is None or named in usual:
        return Path("runs", *own) if own else DEFAULT_WORKDIR
    parts = named.with_suffix("").parts
    below_configs = parts[parts.index("configs") + 1 :] if "configs" in parts else parts[-1:]
    return Path("runs", "_".join([*below_configs, *own]))


def configuration_to_train(
    config_path: str | None, folder: Path, overrides: Overrides, look: Callable[[ConfigDict], Dataset]
) -> ConfigDict:
    """Return the configuration for training in `folder`.

    It is that of the file, or else of the run that is there already, or else the one for the kind of the data where
    these are named, at which it takes a `look`, or else the default one; with overrides.

    Raises:
        UserError: the configuration is faulty, or the run there was begun with other data, process, network or seed.
    """
    remembered = folder / "config.json"
    begun = configuration.load_json(remembered) if checkpoint.latest(folder / "checkpoints") else None
    if config_path is None and begun is not None:
        config = configuration.load_json(remembered)
    else:
        config = _configuration_to_begin(config_path, overrides, look)
    override(config, overrides)
    if begun is not None:
        _check_agreement(config, begun, ("seed", "data", "sde", "model"), f"the run in {folder} was begun")
    return config


def _configuration_to_begin(
    config_path: str | None, overrides: Overrides, look: Callable[[ConfigDict], Dataset]
) -> ConfigDict:
    """Return the configuration of a run that begins: of the file, of the checkpoint to begin from, for the data."""
    start = _find_start(overrides)
    if config_path is not None:
        config = configuration.load_file(config_path)
    elif start is not None and start.config is not None:
        config = configuration.from_dict(start.config, str(start.path))
    elif {"data.path", "data.dataset"} & dict(overrides).keys():
        config = _configuration_for(look, overrides)
    else:
        config = configuration.load_file(DEFAULT_CONFIG)
    return config if start is None else configuration.from_dict(start.values, str(start.path), config)


def _configuration_for(look: Callable[[ConfigDict], Dataset], overrides: Overrides) -> ConfigDict:
    """Return the configuration for the kind of the data that the overrides name, at which it takes a look."""
    looked_with = configuration.of_data(overrides)
    dataset = look(looked_with)
    config = configuration.load_file(CONFIG_OF[dataset.kind])
    if dataset.is_image:
        config.data.image_size = looked_with.data.image_size
        config.data.levels = dataset.levels
        halvings = 2 ** (len(config.model.channel_multipliers) - 1)
        if any(size % halvings for size in dataset.shape[1:]):
            config.model.network = "unet"
    return config


def _find_start(overrides: Overrides) -> checkpoints.Found | None:
    """Find the checkpoint that training is to begin from, which may decide the network; None if none is named."""
    place = dict(overrides).get("training.start_from")
    return checkpoints.find(other_run.newest(place)) if place and place.lower() != "none" else None


def changes(config: ConfigDict, folder: Path) -> list[str]:
    """Say what a run in `folder` will do otherwise than so far, a line each; nothing if it has not begun."""
    if not checkpoint.latest(folder / "checkpoints"):
        return []
    begun = configuration.load_json(folder / "config.json")
    here, there = (dict(configuration.flatten(one)) for one in (config, begun))
    keys = configuration.differences(config, begun, ("training",))
    return [f"from now on {key}={here[key]} instead of {there[key]}" for key in keys]


def configuration_to_use(
    config_path: str | None, folder: Path, checkpoint_path: Path | None, overrides: Overrides
) -> tuple[ConfigDict, checkpoints.Found | None]:
    """Return the configuration to use a checkpoint with, and the checkpoint; None for a mixture, which has none.

    The checkpoint is the given one, or the newest in `folder`. The configuration is that of the file, or else of the
    folder, or else the one in the checkpoint; with overrides.

    Raises:
        UserError: any of them is missing or faulty, or the checkpoint was trained with other data, process or network.
    """
    remembered = folder / "config.json"
    config = None
    if config_path is not None:
        config = configuration.load_file(config_path)
    elif remembered.is_file():
        config = configuration.load_json(remembered)
    if config is not None:
        override(config, overrides)
        if config.model.network == "mixture" and checkpoint_path is None:
            return config, None
    found = _find(folder, checkpoint_path)
    if config is None:
        if not found.self_sufficient:
            raise UserError(f"{found.path} does not say what it was trained with: give its --config FILE")
        # A pipeline knows all but its data.
        config = configuration.from_dict(found.config or {"data.dataset": "images"}, str(found.path))
    # Values that the checkpoint decides go before the file's, and the user's go before both.
    configuration.from_dict(found.values, str(found.path), config)
    override(config, overrides)
    if found.config is not None:
        begun = configuration.from_dict(found.config, str(found.path))
        # Users may give other data of the same kind.
        asked_for = {key for key, _ in overrides if key.startswith("data.") and key not in _OF_NETWORK}
        _check_agreement(config, begun, ("data", "sde", "model"), f"{found.path} was trained", asked_for)
    controls.data_of_controls(config)
    return config, found


def _find(folder: Path, checkpoint_path: Path | None) -> checkpoints.Found:
    if checkpoint_path is None:
        if not folder.is_dir():
            raise UserError(f"there is no workdir {folder}; first: python main.py --mode train --workdir {folder}")
        checkpoint_path = checkpoint.latest(folder / "checkpoints")
        if checkpoint_path is None:
            raise UserError(f"there is no checkpoint in {folder}; train there first, or give --checkpoint FILE")
    return checkpoints.find(checkpoint_path)


def override(config: ConfigDict, overrides: Overrides) -> None:
    """Set values by hand, in place; what they leave no sense to is left out.

    Raises:
        UserError: there is no such key, or a value is out of range.
    """
    configuration.override(config, overrides)
    rules.check_values(config)
    drop_steps_of_another_solver(config, {key for key, _ in overrides})


def _check_agreement(
    config: ConfigDict, began: ConfigDict, sections: tuple[str, ...], what: str, except_for: set[str] | None = None
) -> None:
    """Raise UserError if the two differ in these sections, but for where files of the data lie and `except_for`."""
    # An encoder is the same wherever it lies, and whether it is, its digest says.
    places = {"data.folder", "data.text_encoder", "data.embedding", "data.embed_condition"}
    keys = configuration.differences(config, began, sections, {*places, *(except_for or ())})
    if keys:
        here, there = (dict(configuration.flatten(one)) for one in (config, began))
        all_of_them = ", ".join(f"{key}={there[key]}, not {here[key]}" for key in keys)
        raise UserError(f"{what} with {all_of_them}: give the same, or another --workdir")
