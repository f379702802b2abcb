"""Control networks beside the model of another run: where training begins, and several that were trained apart.

    training    the frozen model, and all that it is told, is that of `training.start_from`; its copies begin as it is
    use         the run's own controls, then those of the runs of `sampling.controls`, each at its scale

The weights of the frozen model are kept in each run's checkpoints, so that nothing else is needed to use one. Controls
go together whose frozen models are the same to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from score_sde.common.errors import UserError, naming
from score_sde.common.resumable import digest
from score_sde.common.weight_files import load_weights
from score_sde.data import Dataset
from score_sde.data.dataset import described
from score_sde.experiment import build, checkpoints, configuration, latents, other_run
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.networks import names_of_controls, no_picture
from score_sde.models import ControlNet, FlowMap
from score_sde.models.networks.controlnet import Control

_OBJECTIVES = ("continuous", "discrete", "hybrid")
_NETWORKS = ("unet", "dit")
# What of a model's section does not matter to what it computes.
_IMMATERIAL = ("model.control", "model.activation_checkpointing", "model.dropout")
_MAKERS = ("data.edges", "data.low_resolution")


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
            raise no_picture(name, [known for known, units in dataset.condition_units.items() if len(units.shape) > 1])
    with naming("training.start_from"):
        if config.training.start_from is None:
            raise UserError("controls are trained beside the frozen model of a run: name its folder or its checkpoint")
        found = checkpoints.find(other_run.newest(config.training.start_from))
        if found.config is not None:
            _check_same(config, configuration.from_dict(found.config, str(found.path)), str(found.path))
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
    return [f"controls are trained beside the frozen weights of {found.path}, {_digest_of(network.base)}"]


def joined(experiment: Experiment) -> Experiment:
    """Return an experiment whose model has the controls of the runs of `sampling.controls`, too, all at their scales.

    Raises:
        UserError: a run has no controls, or they were trained beside another model; or there are not as many scales.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    places = _places(config)
    if places:
        network = network_of(model) or ControlNet(_network(model), {})
        told = dict(dataset.condition_units)
        for place in places:
            with naming("sampling.controls"):
                other, description = _other(place, config, dataset)
                where = str(place)
                theirs = network_of(other)
                assert theirs is not None
                _check_frozen(network.base, theirs.base, where)
                for name, control in theirs.controls.items():
                    assert isinstance(control, Control)
                    if name in network.controls:
                        raise UserError(f"{where}: there is a control {name} already: give each run once")
                    network.add(control.requires_grad_(False))
                    told[name] = description.condition_units[name]
        device = next(model.parameters()).device
        _set_network(model, network.to(device).eval())
        dataset = replace(dataset, condition_units=told)
    return replace(experiment, dataset=dataset, model=at_scales(model, config))


def at_scales(model: Any, config: ConfigDict) -> Any:
    """Return a model, with the same weights, whose controls have the scales of the section `sampling`.

    Raises:
        UserError: there are scales, and not as many controls.
    """
    network, scales, names = network_of(model), config.sampling.control_scales, controls_of(model)
    if scales and len(scales) != len(names):
        raise UserError(
            f"sampling.control_scales has {len(scales)} numbers, and the controls of this model are: "
            f"{', '.join(names) or 'none'}"
        )
    if network is None:
        return model
    given = scales or (1.0,) * len(names)
    return _with_network(model, network.at(dict(zip(names, map(float, given), strict=True))))


def data_of_controls(config: ConfigDict) -> None:
    """Let data be conditioned on themselves as those were that further controls were trained on; `config` is changed.

    Raises:
        UserError: two runs, or a run and the configuration, mean other things by a name.
    """
    for place in _places(config):
        with naming("sampling.controls"):
            theirs, _ = _trained_with(place)
        for key in _MAKERS:
            name = key.split(".")[1]
            value = theirs.data[name]
            if name not in names_of_controls(theirs):
                continue
            if config.data[name] not in (None, value):
                raise UserError(f"{place} was trained with {key}={value}, not {config.data[name]}: give the same")
            config.data[name] = value


def as_trained(dataset: Dataset, found: checkpoints.Found | None) -> Dataset:
    """Return data with no more conditions than those that the model of a checkpoint itself was trained with."""
    if found is None or found.data is None:
        return dataset
    known = found.data.get("conditions", {})
    conditions = {
        part: {name: values for name, values in arrays.items() if name in known}
        for part, arrays in dataset.conditions.items()
    }
    return replace(dataset, conditions=conditions)


def network_of(model: Any) -> ControlNet | None:
    """Return the network of a model, if it has controls; None if not."""
    network = getattr(model, "network", None)
    return network if isinstance(network, ControlNet) else None


def controls_of(model: Any) -> tuple[str, ...]:
    """Return the names of the controls of a model, in order; none if it has none."""
    network = network_of(model)
    return () if network is None else tuple(network.controls)


def _places(config: ConfigDict) -> list[str]:
    return [place.strip() for place in config.sampling.controls.split(",") if place.strip()]


def _trained_with(place: str) -> tuple[ConfigDict, checkpoints.Found]:
    """Return the configuration that a run with controls was trained with, and its checkpoint."""
    found = checkpoints.find(other_run.newest(place))
    trained_with = None if found.config is None else configuration.from_dict(found.config, str(found.path))
    if trained_with is None or not names_of_controls(trained_with) or found.data is None:
        raise UserError(f"{found.path} has no controls: train some beside a model, with model.control")
    return trained_with, found


def _other(place: str, config: ConfigDict, dataset: Dataset) -> tuple[Any, Dataset]:
    """Return the model of another run with controls, and its data without examples."""
    trained_with, found = _trained_with(place)
    assert found.data is not None
    _check_same(config, trained_with, str(found.path))
    data = trained_with.data
    theirs = described(found.data, data.low, data.high, data.uniform_dequantisation)
    if theirs.shape != dataset.shape or theirs.levels != dataset.levels:
        raise UserError(f"{found.path} is for examples of shape {theirs.shape}, not {dataset.shape}")
    return found.make_model(trained_with, theirs), theirs


def _check_same(config: ConfigDict, theirs: ConfigDict, where: str) -> None:
    """See that two configurations make the same frozen model."""
    keys = configuration.differences(config, theirs, ("sde", "model"), _IMMATERIAL)
    units = ("data.low", "data.high", "data.uniform_dequantisation", "data.distortion")
    keys += [key for key in configuration.differences(config, theirs, ("data",)) if key in units]
    if keys:
        here, there = (dict(configuration.flatten(one)) for one in (config, theirs))
        every = ", ".join(f"{key}={there[key]}, not {here[key]}" for key in keys)
        raise UserError(f"{where} was trained with {every}: a frozen model stays as it is, give the same")


def _check_frozen(ours: nn.Module, theirs: nn.Module, where: str) -> None:
    """See that two frozen networks have the same weights, to the bit."""
    here, there = ours.state_dict(), theirs.state_dict()
    same = here.keys() == there.keys() and all(
        tensor.shape == there[name].shape and torch.equal(tensor.cpu(), there[name].cpu())
        for name, tensor in here.items()
    )
    if not same:
        raise UserError(
            f"{where} was trained beside other weights ({_digest_of(theirs)}, not {_digest_of(ours)}): controls go "
            "together that were trained beside the same checkpoint"
        )


def _digest_of(network: nn.Module) -> str:
    state = network.state_dict()
    return f"digest {digest(*(state[name].cpu() for name in sorted(state)))[:12]}"


def _within(prefix: str, name: str) -> str:
    """Return the name that a weight has once its network stands beside controls."""
    return f"{prefix}base.{name.removeprefix(prefix)}" if name.startswith(prefix) else name


def _without_controls(config: ConfigDict) -> ConfigDict:
    plain = copy.deepcopy(config)
    plain.model.control = ""
    return plain


def _network(model: Any) -> nn.Module:
    network = getattr(model, "network", None)
    if not isinstance(network, nn.Module):
        raise UserError(f"sampling.controls stand beside a network, and a {type(model).__name__} has none")
    return network


def _set_network(model: Any, network: nn.Module) -> None:
    """Give a model another network, in place."""
    holder = model.model if isinstance(model, FlowMap) else model
    holder.network = network


def _with_network(model: Any, network: nn.Module) -> Any:
    """Return a model like this one, of the same weights, with another network."""
    twin = copy.copy(model)
    parts: Mapping[str, Any] = model._modules
    twin._modules = dict(parts)
    if isinstance(model, FlowMap):
        twin._modules["model"] = _with_network(model.model, network)
    else:
        twin._modules["network"] = network
    return twin
