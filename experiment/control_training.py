"""Control networks in training: beside the model of another run, which is frozen, and which copies begin as."""

from __future__ import annotations

import copy
from dataclasses import replace

from ml_collections import ConfigDict
from torch import nn

from score_sde.common.errors import UserError, naming
from score_sde.common.weight_files import load_weights
from score_sde.data import Dataset
from score_sde.data.conditions import ConditionUnits
from score_sde.experiment import build, checkpoints, configuration, latents, other_run
from score_sde.experiment.controls import check_same, digest_of, network_of
from score_sde.experiment.networks import names_of_controls, no_picture

_OBJECTIVES = ("continuous", "discrete", "hybrid")
_NETWORKS = ("unet", "dit")


def check_controls(config: ConfigDict) -> None:
    """See that controls can be trained as a configuration has them.

    Raises:
        UserError: they cannot; the line names the key.
    """
    names = names_of_controls(config)
    if not names:
        return
    if len(set(names)) < len(names):
        raise UserError(f"model.control={config.model.control} names one twice: each control is told of one condition")
    if config.model.network not in _NETWORKS:
        raise UserError(
            f"model.control is for model.network={' and '.join(_NETWORKS)}, whose features can be changed between "
            f"encoder and decoder, not for {config.model.network}"
        )
    if config.training.objective not in _OBJECTIVES:
        raise UserError(
            f"model.control leaves all else as it is, which training.objective={config.training.objective} would not: "
            f"take {', '.join(_OBJECTIVES)}"
        )


def beside_base(config: ConfigDict, dataset: Dataset) -> Dataset:
    """Return data in the units of the frozen model that controls are to be trained beside, with theirs as they are.

    Raises:
        UserError: no model is named, or it is of other data, another process or another network.
    """
    names = names_of_controls(config)
    if not names:
        return dataset
    for name in names:
        if name not in dataset.condition_units:
            pictures = {
                known: units for known, units in dataset.condition_units.items() if isinstance(units, ConditionUnits)
            }
            raise no_picture(name, [known for known, units in pictures.items() if len(units.shape) > 1])
    with naming("training.start_from"):
        if config.training.start_from is None:
            raise UserError("controls are trained beside the frozen model of a run: name its folder or its checkpoint")
        found = checkpoints.find(other_run.newest(config.training.start_from))
        if found.config is not None:
            check_same(config, configuration.from_dict(found.config, str(found.path)), str(found.path))
        if found.data is None:
            return dataset
        if set(names) & set(found.data.get("conditions", {})):
            # Training goes on from controls, which know their pictures in units of their own.
            dataset.check_like(found.data, build.knows_classes(config), str(found.path))
            return dataset.in_units_of(found.data)
        told = {name: units for name, units in dataset.condition_units.items() if name not in names}
        rest = replace(dataset, condition_units=told)
        rest.check_like(found.data, build.knows_classes(config), str(found.path))
        rest = rest.in_units_of(found.data)
    own = {name: units for name, units in dataset.condition_units.items() if name in names}
    return replace(rest, condition_units={**rest.condition_units, **own})


def begin(model: nn.Module, config: ConfigDict, dataset: Dataset) -> list[str]:
    """Give the frozen part of a model the weights that training begins from, and its controls copies of them.

    Weights of a model with the same controls are taken as they are.

    Returns:
        What the user should know, a line each.

    Raises:
        UserError: the weights are of another network.
    """
    place, network = other_run.newest(config.training.start_from), network_of(model)
    assert network is not None
    found = checkpoints.find(place)
    with naming("training.start_from"):
        theirs = dataset if found.data is None else latents.without_examples(found.data)
        weights = found.weights or found.make_model(_without_controls(config), theirs).state_dict()
        prefix = next(name for name, module in model.named_modules() if module is network) + "."
        if any(name.startswith(f"{prefix}controls.") for name in weights):
            load_weights(model, weights, str(found.path))
            return [f"training begins with the weights of {found.path}, controls and all"]
        renamed = {_within(prefix, name): tensor for name, tensor in weights.items()}
        own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(f"{prefix}controls.")}
        load_weights(model, renamed | own, str(found.path))
        network.begin()
    return [f"controls are trained beside the frozen weights of {found.path}, {digest_of(network.base)}"]


def _within(prefix: str, name: str) -> str:
    """Return the name that a weight has once its network stands beside controls."""
    return f"{prefix}base.{name.removeprefix(prefix)}" if name.startswith(prefix) else name


def _without_controls(config: ConfigDict) -> ConfigDict:
    plain = copy.deepcopy(config)
    plain.model.control = ""
    return plain
