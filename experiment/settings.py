"""What a result was made with: the seed, sections of the configuration, and the weights, as plain values by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from torch import nn

from score_sde.common.resumable import digest
from score_sde.experiment.configuration import flatten
from score_sde.experiment.controls import network_of
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.solver import ignored_options


def settings_of(
    config: ConfigDict,
    sections: Iterable[str],
    model: nn.Module,
    checkpoint: Path | None,
    except_for: Iterable[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return what a result is made with: the seed, these sections of the configuration, the weights, and `more`.

    Args:
        config: the configuration.
        sections: the sections that count.
        model: the model with the weights.
        checkpoint: the checkpoint that the weights come from.
        except_for: dotted keys that do not count.
        more: further plain values by name.
    """
    chosen, ignored = ("seed", "average", *sections), set(except_for)
    values = {k: v for k, v in flatten(config) if k.split(".")[0] in chosen and k not in ignored}
    origin = {"checkpoint": checkpoint and checkpoint.name, "weights": digest(*model.state_dict().values())}
    network = network_of(model)
    scales = {} if network is None else {"control_scales": list(network.scales.values())}
    return {**origin, **values, **scales, **more}


def settings_for(experiment: Experiment, sections: Iterable[str], **more: Any) -> dict[str, Any]:
    """Return what a result of an experiment is made with: these sections, less what does not change it, and `more`."""
    ignored = {*ignored_options(experiment.config), "batch_size", "metrics", "inception", "copies"}
    keys = [*(f"sampling.{name}" for name in ignored), "compare.batch_size"]
    return settings_of(experiment.config, sections, experiment.model, experiment.path, keys, **more)
