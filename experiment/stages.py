"""The stages of a cascade: runs of their own, in folders of the cascade's, that `cascade.stages` names in order.

    runs/cascades_glyphs/config.json                the configuration that names the stages
    runs/cascades_glyphs/glyphs_8/config.json, …    the first stage, a run like any other
    runs/cascades_glyphs/glyphs_16/…                the second one, which is told pictures of the first one's size

What is set by hand holds for all stages, and what begins with a stage's name for that one: `glyphs_16.sampling.eta`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home
from score_sde.experiment import checks, configuration, rules, runs
from score_sde.experiment.configuration import Overrides
from score_sde.training import checkpoint

_STAGES = "cascade.stages"
# What all stages have alike, so that their pictures are the same, and none is tested on what another was trained on.
_ALIKE = (
    *("dataset", "path", "num_channels", "levels", "low", "high", "resize"),
    *("test_share", "split_seed", "validation", "fold"),
)


class Stage(NamedTuple):
    """A stage of a cascade is a run.

    Attributes:
        name: the name of its configuration, and of its folder.
        folder: its folder.
        config_path: the file of its configuration, which is that of its folder where there is one.
        overrides: values set by hand.
    """

    name: str
    folder: Path
    config_path: str
    overrides: Overrides

    def configuration(self) -> ConfigDict:
        """Return the configuration, with what is set by hand.

        Raises:
            UserError: it is faulty.
        """
        config = configuration.load_file(self.config_path)
        runs.override(config, self.overrides)
        return config


class Stages(NamedTuple):
    """The stages of a cascade are in its folder.

    Attributes:
        folder: the folder of the cascade.
        config: the configuration that names them.
        all: the stages, in their order.
    """

    folder: Path
    config: ConfigDict
    all: tuple[Stage, ...]


def find_stages(config_path: str | None, folder: Path, overrides: Overrides) -> Stages | None:
    """Return the stages of the cascade that a configuration is of, or the run in a folder; None if it is of none.

    Raises:
        UserError: the configuration is faulty, or the stages have no names of their own.
    """
    config = _configuration(config_path, folder)
    configuration.override(config, [(key, text) for key, text in overrides if key == _STAGES])
    if config.cascade.stages is None:
        if config_path is not None and _configuration(None, folder).cascade.stages is not None:
            raise UserError(f"{folder} is the folder of a cascade, which {config_path} is not: take another --workdir")
        return None
    rules.check_values(config)
    given = [path.strip() for path in config.cascade.stages.split(",")]
    paths = {Path(path).stem: path for path in given}
    if not 1 < len(paths) == len(given) or set(paths) & set(config):
        raise UserError(f"{_STAGES}={config.cascade.stages}: these are two configurations or more, of different names")
    # What the cascade's configuration sets is in those of its stages already, once these are in their folders.
    changed = [] if config_path is None else _changed(config)
    shared = [(key, text) for key, text in overrides if key.split(".")[0] not in paths and key != _STAGES]
    stages = []
    for name, path in paths.items():
        remembered = folder / name / "config.json"
        place = remembered if config_path is None and remembered.is_file() else at_home(path)
        own = [(key.removeprefix(f"{name}."), text) for key, text in overrides if key.startswith(f"{name}.")]
        stages.append(Stage(name, folder / name, str(place), [*changed, *shared, *own]))
    return Stages(folder, config, tuple(stages))


def _configuration(config_path: str | None, folder: Path) -> ConfigDict:
    """Return the configuration of a file, or of the run in a folder, or the default one."""
    remembered = folder / "config.json"
    if config_path is not None:
        return configuration.load_file(config_path)
    return configuration.load_json(remembered) if remembered.is_file() else configuration.from_dict({}, "the default")


def _changed(config: ConfigDict) -> list[tuple[str, str]]:
    """Return what a cascade's configuration sets for all of its stages, as it would be set by hand."""
    defaults = configuration.from_dict({}, "the default")
    keys = configuration.differences(config, defaults, config, [_STAGES])
    values = dict(configuration.flatten(config))
    return [(key, str(values[key])) for key in keys]


def check_stages(stages: Stages) -> list[ConfigDict]:
    """See that each stage can be trained, and is told pictures as the one before draws them; return configurations.

    Raises:
        UserError: they do not fit together; the line names the stage and the key.
    """
    configs = [stage.configuration() for stage in stages.all]
    for stage, config in zip(stages.all, configs, strict=True):
        with naming(f"stage {stage.name}"):
            checks.check(config, "train")
    if configs[0].data.low_resolution is not None:
        raise UserError(
            f"stage {stages.all[0].name} is the first one, which is told no pictures: no data.low_resolution"
        )
    for (before, small), (stage, large) in pairwise(zip(stages.all, (config.data for config in configs), strict=True)):
        if small.image_size is None or large.low_resolution != small.image_size:
            raise UserError(
                f"{before.name} draws pictures of data.image_size={small.image_size}, and stage {stage.name} is told "
                f"ones of data.low_resolution={large.low_resolution}: give both the same"
            )
        for key in _ALIKE:
            if large[key] != small[key]:
                raise UserError(
                    f"stage {stage.name} has data.{key}={large[key]}, and {before.name} {small[key]}: all stages are "
                    "of the same pictures"
                )
    return configs


def remember_stages(stages: Stages) -> None:
    """Write down the configurations of a cascade, and of stages that have not begun, so that these same ones go on.

    Raises:
        UserError: the folder is that of something else, the stages do not fit together, or a file cannot be written.
    """
    folder, remembered = stages.folder, stages.folder / "config.json"
    if remembered.is_file() or checkpoint.latest(folder / "checkpoints") is not None:
        there, names = find_stages(None, folder, ()), [stage.name for stage in stages.all]
        if there is None or [stage.name for stage in there.all] != names:
            raise UserError(f"{folder} is the folder of something else than {', '.join(names)}: take another --workdir")
    configs = check_stages(stages)
    if distributed.rank() > 0:
        return
    configuration.save(stages.config, remembered)
    for stage, config in zip(stages.all, configs, strict=True):
        if checkpoint.latest(stage.folder / "checkpoints") is None:
            configuration.save(config, stage.folder / "config.json")
