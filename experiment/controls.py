"""Control networks in use: a run's own controls, then those of the runs of `sampling.controls`, each at its scale.

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
from score_sde.data import Dataset
from score_sde.data.dataset import described
from score_sde.experiment import checkpoints, configuration, other_run
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.networks import names_of_controls
from score_sde.models import ControlNet, FlowMap
from score_sde.models.networks.controlnet import Control

# What of a model's section does not matter to what it computes.
_IMMATERIAL = ("model.control", "model.activation_checkpointing", "model.dropout")
_MAKERS = ("data.edges", "data.low_resolution")


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
    check_same(config, trained_with, str(found.path))
    data = trained_with.data
    theirs = described(found.data, data.low, data.high, data.uniform_dequantisation)
    if theirs.shape != dataset.shape or theirs.levels != dataset.levels:
        raise UserError(f"{found.path} is for examples of shape {theirs.shape}, not {dataset.shape}")
    dataset.check_words(found.data, str(found.path))
    return found.make_model(trained_with, theirs), theirs


def check_same(config: ConfigDict, theirs: ConfigDict, where: str) -> None:
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
            f"{where} was trained beside other weights ({digest_of(theirs)}, not {digest_of(ours)}): controls go "
            "together that were trained beside the same checkpoint"
        )


def digest_of(network: nn.Module) -> str:
    state = network.state_dict()
    return f"digest {digest(*(state[name].cpu() for name in sorted(state)))[:12]}"


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
